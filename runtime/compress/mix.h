/// The rules of --mix: what differs for some matrices.
///
/// "SELECTOR=FORMAT,…": a selector is a role's name or "*", and may go on with "@N" or "@N-M", the
/// layers it is about; a format is a name of the table of formats, "int4" and "int8" maybe with a
/// bits' number of their own ("int3", "int2") and "/N", a group (0: the row), or "keep": not
/// quantized. Of several rules that fit, the last one holds.
#ifndef RUNTIME_COMPRESS_MIX_H
#define RUNTIME_COMPRESS_MIX_H

#include "runtime/ops/plan.h"
#include "runtime/quant/format.h"

/// What a rule says.
struct nib_mix_choice {
    bool is_kept;
    struct nib_format format;
    bool has_group; ///< the rule gives format.group itself
};

/// Finds what `rules` (may be NULL) says of a matrix; `*out_found` tells whether it says anything.
/// The whole text is checked. Errors: argument, quoting the rule.
enum nib_status nib_mix_find(const char *rules, enum nib_role role, uint32_t layer,
                             struct nib_mix_choice *out_choice, bool *out_found,
                             struct nib_error *err);
/// Returns the format called `name`, as rules call it. Errors: argument.
enum nib_status nib_mix_format(const char *name, size_t size, struct nib_mix_choice *out_choice,
                               struct nib_error *err);

#endif
