/// The regular expressions of pre-tokenizers, which may come from a file, run by PCRE2 under
/// limits.
#ifndef RUNTIME_TOKENIZER_PATTERN_H
#define RUNTIME_TOKENIZER_PATTERN_H

#include "runtime/tokenizer/vocab.h"

/// A compiled pattern. Thread-safety: immutable; safe.
struct nib_pattern;

/// Compiles `source`, written in the dialect that tokenizer files use (Oniguruma's Ruby syntax), as
/// far as PCRE2 can do the same: white space is Unicode's White_Space, "$" and "^" match at line
/// ends, sets within a set are joined. Safe for untrusted input.
/// Errors: format (it does not compile), unsupported (intersection or complement of sets within a
/// set), memory. The message quotes the pattern.
enum nib_status nib_pattern_compile(struct nib_text source, struct nib_pattern **out_pattern,
                                    struct nib_error *err);
void nib_pattern_destroy(struct nib_pattern **pattern);

/// A piece of text: bytes [begin, end).
struct nib_range {
    size_t begin;
    size_t end;
};
/// A growable list. A zeroed struct is an empty one.
struct nib_range_list {
    struct nib_range *ranges;
    size_t count;
    size_t capacity;
};
/// Errors: memory.
enum nib_status nib_range_list_add(struct nib_range_list *list, struct nib_range range,
                                   struct nib_error *err);
void nib_range_list_free(struct nib_range_list *list);

/// Working memory of matching, and what is left of the work that one encoding may cost. A zeroed
/// struct is empty.
struct nib_pattern_matcher {
    struct nib_pattern_scratch *scratch;
    uint64_t hard_matches; ///< matches that may still exceed the small limit
    bool *is_match;        ///< of the ranges in `parts`
    size_t is_match_capacity;
    struct nib_range_list parts;
};
/// Readies the matcher for text of `size` bytes in all. Errors: memory.
enum nib_status nib_pattern_matcher_begin(struct nib_pattern_matcher *matcher, size_t size,
                                          struct nib_error *err);
void nib_pattern_matcher_free(struct nib_pattern_matcher *matcher);

/// One step of pre-tokenization, ready to run.
struct nib_pattern_step {
    struct nib_pattern *pattern;
    enum nib_split_kind kind;
    bool invert; ///< as in struct nib_vocab_split
};

/// Splits `piece` of `text` and appends the pieces, none of them empty, to `out`.
/// text: well-formed UTF-8, `piece` on character boundaries
/// Errors: unsupported (a limit was exceeded; the pattern is quoted), memory.
enum nib_status nib_pattern_split(const struct nib_pattern_step *step,
                                  struct nib_pattern_matcher *matcher, const char *text,
                                  struct nib_range piece, struct nib_range_list *out,
                                  struct nib_error *err);

#endif
