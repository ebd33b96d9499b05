/// The families of chat templates, as data.
#ifndef RUNTIME_TOKENIZER_CHAT_FAMILY_H
#define RUNTIME_TOKENIZER_CHAT_FAMILY_H

#include <nibble/tokenizer.h>

/// Whose texts lose the white space around them.
enum nib_chat_trim {
    NIB_CHAT_TRIM_SYSTEM = 1 << NIB_CHAT_SYSTEM,
    NIB_CHAT_TRIM_USER = 1 << NIB_CHAT_USER,
    NIB_CHAT_TRIM_ASSISTANT = 1 << NIB_CHAT_ASSISTANT
};

/// How a family writes a conversation. In all texts the byte 1 stands for BOS and 2 for EOS.
struct nib_chat_family {
    const char *name;
    const char *system_begin;
    const char *system_end;
    const char *user_begin;
    const char *user_end;
    const char *assistant_begin;
    const char *assistant_end;  ///< with the token that ends the turn
    const char *assistant_tail; ///< what comes between it and the next turn
    const char *generation;     ///< asks for an answer
    bool system_in_user;        ///< the system text goes into the first user turn, before its text
    unsigned trims;             ///< bits of enum nib_chat_trim
};
#define NIB_CHAT_BOS "\1"
#define NIB_CHAT_EOS "\2"

/// Returns the family `name`, or NULL.
const struct nib_chat_family *nib_chat_family_find(const char *name);
/// Returns family `index`, or NULL past the last.
const struct nib_chat_family *nib_chat_family_at(uint32_t index);
/// Returns the family that `jinja` is of, by texts that are characteristic for it, or NULL.
/// jinja: a chat template with "\n" written as a line feed
const struct nib_chat_family *nib_chat_family_recognise(struct nib_text jinja);
/// Returns where `needle` begins in `text` at or after `from`, or SIZE_MAX.
size_t nib_text_find(struct nib_text text, size_t from, const char *needle);

#endif
