#include "runtime/tokenizer/chat_family.h"

#include <string.h>

#define BOS NIB_CHAT_BOS
#define EOS NIB_CHAT_EOS
#define TRIM_SPEAKERS (NIB_CHAT_TRIM_USER | NIB_CHAT_TRIM_ASSISTANT)

/// A family whose turns are `open role close text end`, apart by `tail`.
#define TURNS(open, close, end, tail)                                                             \
    .system_begin = open "system" close, .system_end = end tail, .user_begin = open "user" close, \
    .user_end = end tail, .assistant_begin = open "assistant" close, .assistant_end = end,        \
    .assistant_tail = tail, .generation = open "assistant" close

static const struct nib_chat_family FAMILIES[] = {
    {.name = "chatml", TURNS("<|im_start|>", "\n", "<|im_end|>", "\n")},
    {.name = "llama2",
     .system_begin = "<<SYS>>\n",
     .system_end = "\n<</SYS>>\n\n",
     .user_begin = BOS "[INST] ",
     .user_end = " [/INST]",
     .assistant_begin = " ",
     .assistant_end = " " EOS,
     .assistant_tail = "",
     .generation = "",
     .system_in_user = true,
     .trims = TRIM_SPEAKERS},
    {.name = "llama3",
     TURNS("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", ""),
     .trims = NIB_CHAT_TRIM_SYSTEM | TRIM_SPEAKERS},
    {.name = "gemma",
     .system_begin = "",
     .system_end = "\n\n",
     .user_begin = "<start_of_turn>user\n",
     .user_end = "<end_of_turn>\n",
     .assistant_begin = "<start_of_turn>model\n",
     .assistant_end = "<end_of_turn>",
     .assistant_tail = "\n",
     .generation = "<start_of_turn>model\n",
     .system_in_user = true,
     .trims = TRIM_SPEAKERS},
    {.name = "mistral",
     .system_begin = "",
     .system_end = "\n\n",
     .user_begin = "[INST] ",
     .user_end = " [/INST]",
     .assistant_begin = "",
     .assistant_end = EOS,
     .assistant_tail = "",
     .generation = "",
     .system_in_user = true},
    {.name = "mistral-v1",
     .system_begin = "",
     .system_end = "\n\n",
     .user_begin = " [INST] ",
     .user_end = " [/INST]",
     .assistant_begin = " ",
     .assistant_end = EOS,
     .assistant_tail = "",
     .generation = "",
     .system_in_user = true},
    {.name = "mistral-v3",
     .system_begin = "",
     .system_end = "\n\n",
     .user_begin = "[INST] ",
     .user_end = "[/INST]",
     .assistant_begin = " ",
     .assistant_end = EOS,
     .assistant_tail = "",
     .generation = "",
     .system_in_user = true,
     .trims = NIB_CHAT_TRIM_ASSISTANT},
    {.name = "mistral-v3-tekken",
     .system_begin = "",
     .system_end = "\n\n",
     .user_begin = "[INST]",
     .user_end = "[/INST]",
     .assistant_begin = "",
     .assistant_end = EOS,
     .assistant_tail = "",
     .generation = "",
     .system_in_user = true},
    {.name = "mistral-v7",
     .system_begin = "[SYSTEM_PROMPT] ",
     .system_end = "[/SYSTEM_PROMPT]",
     .user_begin = "[INST] ",
     .user_end = "[/INST]",
     .assistant_begin = " ",
     .assistant_end = EOS,
     .assistant_tail = "",
     .generation = ""},
    {.name = "mistral-v7-tekken",
     .system_begin = "[SYSTEM_PROMPT]",
     .system_end = "[/SYSTEM_PROMPT]",
     .user_begin = "[INST]",
     .user_end = "[/INST]",
     .assistant_begin = "",
     .assistant_end = EOS,
     .assistant_tail = "",
     .generation = ""},
    {.name = "phi3", TURNS("<|", "|>\n", "<|end|>", "\n")},
    {.name = "phi4", TURNS("<|im_start|>", "<|im_sep|>", "<|im_end|>", "")},
    {.name = "phi4-mini", TURNS("<|", "|>", "<|end|>", "")},
    {.name = "zephyr", TURNS("<|", "|>\n", EOS, "\n")},
    {.name = "granite", TURNS("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "\n")},
    {.name = "olmo2",
     .system_begin = "<|system|>\n",
     .system_end = "\n",
     .user_begin = "<|user|>\n",
     .user_end = "\n",
     .assistant_begin = "<|assistant|>\n",
     .assistant_end = EOS,
     .assistant_tail = "\n",
     .generation = "<|assistant|>\n"},
    {.name = "deepseek",
     .system_begin = "",
     .system_end = "\n\n",
     .user_begin = "User: ",
     .user_end = "\n\n",
     .assistant_begin = "Assistant: ",
     .assistant_end = EOS,
     .assistant_tail = "",
     .generation = "Assistant:"},
    {.name = "deepseek-v3",
     .system_begin = "",
     .system_end = "",
     .user_begin = "<｜User｜>",
     .user_end = "",
     .assistant_begin = "<｜Assistant｜>",
     .assistant_end = EOS,
     .assistant_tail = "",
     .generation = "<｜Assistant｜>"},
    {.name = "command-r",
     .system_begin = "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>",
     .system_end = "<|END_OF_TURN_TOKEN|>",
     .user_begin = "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
     .user_end = "<|END_OF_TURN_TOKEN|>",
     .assistant_begin = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
     .assistant_end = "<|END_OF_TURN_TOKEN|>",
     .assistant_tail = "",
     .generation = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
     .trims = TRIM_SPEAKERS},
};
enum { N_FAMILIES = sizeof FAMILIES / sizeof FAMILIES[0] };

/// What tells a family's templates from others'; the first line whose texts are all there decides.
static const struct {
    const char *name; ///< NULL: no known family
    const char *texts[3];
} MARKS[] = {
    {"phi4", {"<|im_start|>", "<|im_sep|>"}},
    {"chatml", {"<|im_start|>"}},
    {"mistral-v7", {"[INST]", "'[SYSTEM_PROMPT] "}},
    {"mistral-v7-tekken", {"[INST]", "[SYSTEM_PROMPT]"}},
    {"mistral-v1", {"' [INST] ' + system_message"}},
    {"mistral-v1", {" [INST]", "[AVAILABLE_TOOLS]"}},
    {"mistral-v3-tekken", {"\"[INST]\"", "[AVAILABLE_TOOLS]"}},
    {"mistral-v3", {"[INST]", "[AVAILABLE_TOOLS]"}},
    {"llama2", {"[INST]", "<<SYS>>"}},
    {"mistral", {"[INST]", "[/INST]"}},
    {"llama3", {"<|start_header_id|>", "<|end_header_id|>"}},
    {"gemma", {"<start_of_turn>"}},
    {"command-r", {"<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"}},
    {"granite", {"<|start_of_role|>"}},
    {"phi4-mini", {"'<|' + message['role'] + '|>' + message['content'] + '<|end|>'"}},
    {"phi3", {"<|assistant|>", "<|end|>"}},
    {NULL, {"[gMASK]"}},
    {"olmo2", {"'<|user|>\n' + message['content'] + '\n'", "<|assistant|>"}},
    {"zephyr", {"<|user|>\n' + message['content'] + eos_token", "<|assistant|>"}},
    {"deepseek-v3", {"<｜User｜>", "<｜Assistant｜>"}},
    {"deepseek", {"'User: '", "'Assistant: ' + message['content'] + eos_token"}},
};

const struct nib_chat_family *nib_chat_family_find(const char *name)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(FAMILIES[i].name, name) == 0)
            return &FAMILIES[i];
    return NULL;
}

const struct nib_chat_family *nib_chat_family_at(uint32_t index)
{
    return index < N_FAMILIES ? &FAMILIES[index] : NULL;
}

size_t nib_text_find(struct nib_text text, size_t from, const char *needle)
{
    size_t size = strlen(needle);
    for (size_t i = from; i < text.size && text.size - i >= size; i++)
        if (text.ptr[i] == needle[0] && memcmp(text.ptr + i, needle, size) == 0)
            return i;
    return SIZE_MAX;
}

const struct nib_chat_family *nib_chat_family_recognise(struct nib_text jinja)
{
    for (size_t i = 0; i < sizeof MARKS / sizeof MARKS[0]; i++) {
        bool all = true;
        for (size_t j = 0; j < 3 && MARKS[i].texts[j] && all; j++)
            all = nib_text_find(jinja, 0, MARKS[i].texts[j]) != SIZE_MAX;
        if (all)
            return MARKS[i].name ? nib_chat_family_find(MARKS[i].name) : NULL;
    }
    return NULL;
}
