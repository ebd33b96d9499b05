/// The rules of --mix: what differs for some matrices.
///
/// "SELECTOR=FORMAT,…": a selector is a role's name or "*", and may go on with "@N" or "@N-M", the
/// layers it is about (embedding and head are in none); or a pattern of tensors' names, with "*"
/// for any characters and "?" for one, such as "blk.0.*": the model's own names or GGUF's, with
/// ".weight" or without. A format is a name of the table of formats, "int4" and "int8" maybe with a
/// bits' number of their own ("int3", "int2") and "/N", a group (0: the row), or "keep": not
/// quantized. Of several rules that fit, the last one holds.
#ifndef RUNTIME_COMPRESS_MIX_H
#define RUNTIME_COMPRESS_MIX_H

#include "runtime/base/arena.h"
#include "runtime/ops/plan.h"
#include "runtime/quant/format.h"

/// What a rule says.
struct nib_mix_choice {
    bool is_kept;
    struct nib_format format;
    bool has_group; ///< the rule gives format.group itself
};

/// One rule. Its text is the caller's.
struct nib_mix_rule {
    const char *text;
    size_t size;
    size_t pattern_size; ///< the text begins with so many characters of a pattern; 0: role, layers
    enum nib_role role;  ///< NIB_ROLE_COUNT: all
    bool has_layers;     ///< first and last count
    uint32_t first, last;
    struct nib_mix_choice choice;
    bool fits; ///< some matrix that was looked for
};

struct nib_mix {
    struct nib_mix_rule *rules;
    uint32_t n_rules;
};

/// A matrix as rules see it.
struct nib_mix_matrix {
    enum nib_role role;
    uint32_t layer;
    const char *names[2]; ///< in the model, in GGUF; the same twice, or NULL, where there is one
};

/// Reads `text` (may be NULL: no rules), which the rules point into. Memory is the arena's.
/// Errors: argument, quoting the rule; memory.
enum nib_status nib_mix_parse(const char *text, struct nib_arena *arena, struct nib_mix *out_mix,
                              struct nib_error *err);
/// Returns what the rules say of a matrix, or NULL; notes which rules fit it.
const struct nib_mix_choice *nib_mix_find(struct nib_mix *mix, const struct nib_mix_matrix *matrix);
/// Errors: argument, quoting a rule that fits none of the matrices that were looked for.
enum nib_status nib_mix_check_used(const struct nib_mix *mix, struct nib_error *err);
/// Returns the format called `name`, as rules call it. Errors: argument.
enum nib_status nib_mix_format(const char *name, size_t size, struct nib_mix_choice *out_choice,
                               struct nib_error *err);

#endif
