/// Tokenizers: text to token ids and back, and chat templates.
#ifndef NIBBLE_TOKENIZER_H
#define NIBBLE_TOKENIZER_H

#include <nibble/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/// A vocabulary with its merges and pre-tokenizer. Borrowed from a model.
/// Thread-safety: immutable; safe.
struct nib_tokenizer;

struct nib_encode_params {
    uint32_t struct_size;
    bool add_bos;       ///< put BOS first where the model wants one
    bool parse_special; ///< the text of special tokens becomes these tokens; else it is plain text
};
#define nib_encode_params(...) \
    (&(struct nib_encode_params){.struct_size = sizeof(struct nib_encode_params), __VA_ARGS__})

/// Encodes `text` into `*out_ids`, an array of `*out_count` ids to be freed with nib_ids_free.
/// Bytes that are not UTF-8 are encoded as U+FFFD would be. NUL bytes are characters like others.
/// Params NULL: no BOS, special tokens' text is plain text.
/// Errors: argument (more than 113 MiB of text), memory, unsupported (a pattern of the file
/// exceeded its match limit).
/// Safe for untrusted input.
NIB_API enum nib_status nib_tokenizer_encode(const struct nib_tokenizer *tokenizer,
                                             struct nib_text text,
                                             const struct nib_encode_params *params,
                                             int32_t **out_ids, size_t *out_count,
                                             struct nib_error *err);
NIB_API void nib_ids_free(int32_t *ids);

/// Turns a stream of ids into text, holding back bytes until they form whole UTF-8 characters.
/// Thread-safety: one thread at a time.
struct nib_detokenizer;

struct nib_detokenizer_params {
    uint32_t struct_size;
    bool keep_special; ///< write control tokens' text; else they are left out
    /// The ids go on after other text, such as a prompt: a space before the first word stays, which
    /// some vocabularies put before every text, and which is dropped otherwise.
    bool continuation;
};
#define nib_detokenizer_params(...)                                                         \
    (&(struct nib_detokenizer_params){.struct_size = sizeof(struct nib_detokenizer_params), \
                                      __VA_ARGS__})

/// Makes a detokenizer, which borrows `tokenizer`. Errors: argument, memory.
NIB_API enum nib_status nib_detokenizer_create(const struct nib_tokenizer *tokenizer,
                                               const struct nib_detokenizer_params *params,
                                               struct nib_detokenizer **out_detokenizer,
                                               struct nib_error *err);
NIB_API void nib_detokenizer_destroy(struct nib_detokenizer **detokenizer);
/// Takes one more id and points `*out_text` at the characters that it completes (perhaps none),
/// valid UTF-8, alive until the next call. Errors: argument (id outside the vocabulary), memory.
NIB_API enum nib_status nib_detokenizer_push(struct nib_detokenizer *detokenizer, int32_t id,
                                             struct nib_text *out_text, struct nib_error *err);
/// Ends the stream: bytes still held back come out as U+FFFD. The detokenizer is then as new.
NIB_API enum nib_status nib_detokenizer_finish(struct nib_detokenizer *detokenizer,
                                               struct nib_text *out_text, struct nib_error *err);

/// Facts about a tokenizer; -1 where there is no such token.
struct nib_tokenizer_info {
    const char *model;   ///< "bpe", "spm", "unigram"
    const char *pre;     ///< family of the pre-tokenizer, such as "gpt-2"; "" where there is none
    uint32_t vocabulary; ///< number of ids
    int32_t bos;
    int32_t eos;
    int32_t unknown;
    bool add_bos;              ///< the model wants BOS first
    const char *chat_template; ///< the recognised family's name, or NULL: none or unknown
};
NIB_API void nib_tokenizer_get_info(const struct nib_tokenizer *tokenizer,
                                    struct nib_tokenizer_info *out_info);
/// Returns whether `id` ends generation (EOS, end of turn).
NIB_API bool nib_tokenizer_is_end(const struct nib_tokenizer *tokenizer, int32_t id);

/// Who speaks in a conversation.
enum nib_chat_role { NIB_CHAT_SYSTEM = 0, NIB_CHAT_USER = 1, NIB_CHAT_ASSISTANT = 2 };
struct nib_chat_message {
    enum nib_chat_role role;
    struct nib_text text;
};

struct nib_chat_params {
    uint32_t struct_size;
    const char *template_name; ///< a family ("chatml", "llama3", ...); NULL: the model's own
    /// The messages follow earlier ones: no BOS, no default system text. The earlier ones end with
    /// the token that ended the assistant's turn; what the template puts behind it comes first.
    bool continue_conversation;
    bool no_generation_prompt; ///< leave out the header of the assistant's turn
};
#define nib_chat_params(...) \
    (&(struct nib_chat_params){.struct_size = sizeof(struct nib_chat_params), __VA_ARGS__})

/// Renders `messages` by the chat template and encodes them; frees as nib_tokenizer_encode.
/// The messages' text is plain text throughout: it cannot forge special tokens.
/// Errors: not found (the model has no template, its template is of no known family, or
/// `template_name` names none; the message names --chat-template and lists the families),
/// argument (a message of no role), and those of nib_tokenizer_encode.
NIB_API enum nib_status nib_tokenizer_encode_chat(const struct nib_tokenizer *tokenizer,
                                                  const struct nib_chat_message *messages,
                                                  size_t n_messages,
                                                  const struct nib_chat_params *params,
                                                  int32_t **out_ids, size_t *out_count,
                                                  struct nib_error *err);
/// Returns the name of chat template family `index`, or NULL past the last.
NIB_API const char *nib_chat_template_name(uint32_t index);

#ifdef __cplusplus
}
#endif
#endif
