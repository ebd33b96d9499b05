/// Making the plan of a run.
#ifndef RUNTIME_COMPRESS_PLAN_H
#define RUNTIME_COMPRESS_PLAN_H

#include "runtime/compress/compress.h"

/// Settles defaults and decides for each tensor of the output what it becomes. Free with
/// nib_compress_plan_free, also after a failure; a zeroed plan is accepted.
/// Errors: argument (what does not go together, and the remedy), memory.
enum nib_status nib_compress_plan_init(struct nib_compress_plan *plan,
                                       const struct nib_source *source, const char *path,
                                       const struct nib_quantize_params *params,
                                       struct nib_error *err);
void nib_compress_plan_free(struct nib_compress_plan *plan);

/// Returns whether a writer of `container` writes a Hugging Face folder.
bool nib_is_folder_container(enum nib_quantize_container container);
/// Returns the method's name as in --method; static.
const char *nib_quantize_method_name(enum nib_quantize_method method);

#endif
