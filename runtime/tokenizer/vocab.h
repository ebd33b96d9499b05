/// A tokenizer's data as plain arrays, whatever file they came from.
#ifndef RUNTIME_TOKENIZER_VOCAB_H
#define RUNTIME_TOKENIZER_VOCAB_H

#include <nibble/base.h>

/// How pieces become tokens.
enum nib_vocab_model {
    NIB_VOCAB_BPE,        ///< byte-level BPE: bytes written as GPT-2's printable characters, ranked
                          ///< merges
    NIB_VOCAB_SPM,        ///< SentencePiece BPE: the adjacent pair whose token scores best merges
                          ///< first, byte fall-back
    NIB_VOCAB_RANKED_SPM, ///< ranked merges over characters, byte fall-back (tokenizer.json of
                          ///< Llama 2, Mistral, Gemma)
    NIB_VOCAB_UNIGRAM     ///< the segmentation with the best sum of scores (Kudo 2018)
};

enum nib_token_type {
    NIB_TOKEN_NORMAL = 1,
    NIB_TOKEN_UNKNOWN = 2,
    NIB_TOKEN_CONTROL = 3,      ///< special: never produced from plain text
    NIB_TOKEN_USER_DEFINED = 4, ///< found in plain text as a whole, before anything else
    NIB_TOKEN_UNUSED = 5,
    NIB_TOKEN_BYTE = 6
};

/// What an added token (CONTROL or USER_DEFINED) does with its neighbours when it is matched.
enum nib_token_flag {
    NIB_TOKEN_STRIP_LEFT = 1,  ///< white space before it is dropped
    NIB_TOKEN_STRIP_RIGHT = 2, ///< white space after it is dropped
    NIB_TOKEN_SINGLE_WORD = 4, ///< only where no word character touches it
    NIB_TOKEN_NORMALIZED = 8   ///< matched in normalized text
};

/// One token. `text` is as in the file (byte-level characters for BPE, "▁" for a space for SPM,
/// "<0x0A>" for BYTE tokens); added tokens' text is plain.
struct nib_vocab_token {
    struct nib_text text;
    float score;
    uint8_t type;  ///< enum nib_token_type
    uint8_t flags; ///< enum nib_token_flag
    bool added;    ///< from a list of added tokens: `text` is plain also in a byte-level vocabulary
};

/// One ranked merge: ids of the two parts, and of the result.
struct nib_vocab_merge {
    int32_t left;
    int32_t right;
    int32_t result;
};

/// One step of pre-tokenization.
enum nib_split_kind {
    NIB_SPLIT_ISOLATE,        ///< matches and the text between them become pieces
    NIB_SPLIT_REMOVE,         ///< the text between the matches becomes pieces
    NIB_SPLIT_MERGE_PREVIOUS, ///< a match ends the piece before it
    NIB_SPLIT_MERGE_NEXT,     ///< a match begins the piece after it
    NIB_SPLIT_CONTIGUOUS      ///< as ISOLATE, but matches that touch become one piece
};
struct nib_vocab_split {
    struct nib_text pattern; ///< PCRE2 syntax, may come from a file
    enum nib_split_kind kind;
    bool invert; ///< what the pattern does not match counts as the match
};

/// A normalization form of Unicode Standard Annex 15.
enum nib_normal_form {
    NIB_NORMAL_NONE,
    NIB_NORMAL_NFC,
    NIB_NORMAL_NFD,
    NIB_NORMAL_NFKC,
    NIB_NORMAL_NFKD
};

/// When a space is put before a piece of text, so that its first word is written as one within a
/// sentence.
enum nib_space_prefix {
    NIB_SPACE_PREFIX_NONE,
    NIB_SPACE_PREFIX_MISSING, ///< where the text does not begin with one
    NIB_SPACE_PREFIX_ALWAYS
};

/// Everything about a tokenizer. All text is borrowed while nib_tokenizer_create runs.
struct nib_vocab {
    enum nib_vocab_model model;
    const struct nib_vocab_token *tokens;
    uint32_t n_tokens;
    const struct nib_vocab_merge *merges; ///< by rank
    uint32_t n_merges;

    const char
        *pre; ///< name of a family of nib_pretokenizer_find ("gpt-2", "smollm", "llama-bpe"...)
              ///< or NULL: `splits` says it
    const struct nib_vocab_split *splits; ///< applied one after another, each to all pieces
    uint32_t n_splits;

    /// What is done to text between added tokens, in this order.
    bool remove_extra_spaces; ///< runs of spaces become one, none at the ends
    enum nib_normal_form normal_form;
    bool lowercase;
    enum nib_space_prefix space_prefix;
    bool space_prefix_first_only; ///< only before the first piece of text, not after added tokens
    bool escape_spaces;           ///< " " is written "▁"
    bool drops_first_space;       ///< decoding leaves out a space at the very beginning

    bool byte_fallback; ///< characters without a token become BYTE tokens, else unknown
    bool fuse_unknown;  ///< neighbouring unknown characters become one token
    bool ignore_merges; ///< a piece that is a token as a whole is not merged

    bool add_bos;
    int32_t bos; ///< -1: none; so below
    int32_t eos;
    int32_t unknown;
    /// Further tokens that end generation. Those whose text says so in the usual chat formats, such
    /// as "<|im_end|>", need not be named.
    const int32_t *ends;
    uint32_t n_ends;

    struct nib_text chat_template; ///< the model's own Jinja text; empty: none
};

#endif
