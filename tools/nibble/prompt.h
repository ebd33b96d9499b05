/// What the user says: text from the command line or a file, and its tokens.
#ifndef TOOLS_NIBBLE_PROMPT_H
#define TOOLS_NIBBLE_PROMPT_H

#include "tools/nibble/options.h"

/// Reads `path` ("-": standard input) to its end into memory to be freed; NUL bytes are kept.
/// Errors: io, memory, argument (more than 1 GiB).
enum nib_status prompt_read_file(const char *path, char **out_text, size_t *out_size,
                                 struct nib_error *err);

/// Returns the model's tokenizer. Errors: not found (it has none; the message names the model).
enum nib_status prompt_tokenizer(const struct nib_model *model, const char *path,
                                 const struct nib_tokenizer **out_tokenizer, struct nib_error *err);

/// Tokens to begin with.
struct prompt {
    const int32_t *ids; ///< `encoded`, `owned`, or those of --prompt-ids
    size_t count;
    int32_t *encoded; ///< or NULL
    int32_t *owned;   ///< or NULL
};

/// Makes the tokens that the flags ask for (-p, -f, --prompt-ids, --chat), which are borrowed, to
/// follow those of `session`, which are none for a new one. Errors: those of the above; argument
/// (no token results: the prompt is empty).
enum nib_status prompt_make(const struct options *options, const struct nib_model *model,
                            const struct nib_session *session, struct prompt *out_prompt,
                            struct nib_error *err);
void prompt_free(struct prompt *prompt);

/// Finds the token with which the chat template ends the assistant's turn, −1 where there is none.
/// Errors: those of nib_tokenizer_encode_chat.
enum nib_status prompt_end_of_turn(const struct options *options,
                                   const struct nib_tokenizer *tokenizer, int32_t *out_id,
                                   struct nib_error *err);

/// Makes the array of the texts of --stop, which are borrowed; it is to be freed. Errors: memory.
enum nib_status prompt_stops(const struct options *options, struct nib_text **out_stops,
                             struct nib_error *err);

#endif
