#include "tools/nibble/options.h"
#include "tools/nibble/message.h"
#include "tools/nibble/option_values.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/// What follows a flag, and the type of its field in struct options.
enum option_kind {
    OPTION_FLAG,   ///< nothing; bool
    OPTION_TEXT,   ///< const char *
    OPTION_TEXTS,  ///< struct option_texts; the flag may be repeated
    OPTION_IDS,    ///< struct option_ids
    OPTION_LIST,   ///< struct option_list, each from `low` to `high`
    OPTION_COUNT,  ///< struct option_count, from `low` to `high`
    OPTION_LAYERS, ///< struct option_count, or "auto"
    OPTION_REAL,   ///< struct option_real, from `low` to `high`
    OPTION_CHOICE, ///< unsigned: the position in `value`
    OPTION_DEVICE, ///< struct option_device
    OPTION_SPLIT,  ///< struct option_split
    OPTION_KV      ///< struct option_kv
};

struct option {
    const char *name;
    char letter; ///< its short form, or '\0'
    enum option_kind kind;
    unsigned commands;
    size_t offset; ///< of the field
    const char *value;
    const char *help;
    double low, high;
};

enum {
    ENGINE = COMMAND_RUN | COMMAND_CHAT | COMMAND_EVAL | COMMAND_COMPARE | COMMAND_BENCH,
    SAMPLE = COMMAND_RUN | COMMAND_CHAT,
    PROMPT = COMMAND_RUN | COMMAND_TOKENIZE,
    EVALUATE = COMMAND_EVAL | COMMAND_COMPARE,
    ALL = (COMMAND_BENCH << 1) - 1
};

#define FIELD(name) offsetof(struct options, name)
#define QUANTIZE(name) FIELD(quantize.name)
#define MAX_CONTEXT 16777216.0 // tokens; far beyond any model
#define MAX_COUNT 4294967295.0

// Where a flag is repeated the last one counts, but for OPTION_TEXTS.
static const struct option table[] = {
    {"prompt", 'p', OPTION_TEXT, PROMPT, FIELD(prompt), "TEXT", "the text", 0, 0},
    {"file", 'f', OPTION_TEXT, PROMPT | EVALUATE, FIELD(file), "FILE",
     "the text is in FILE (-: standard input)", 0, 0},
    {"prompt-ids", 0, OPTION_IDS, COMMAND_RUN, FIELD(prompt_ids), "1,2,3",
     "these tokens as they are; needs no tokenizer", 0, 0},
    {"no-bos", 0, OPTION_FLAG, COMMAND_TOKENIZE, FIELD(no_bos), NULL,
     "no beginning-of-sequence token", 0, 0},
    {"detokenize", 0, OPTION_IDS, COMMAND_TOKENIZE, FIELD(detokenize), "1,2,3",
     "print the text of these tokens", 0, 0},
    {"tokens", 'n', OPTION_COUNT, SAMPLE, FIELD(tokens), "N",
     "generate at most N tokens (default: to the end)", 1, MAX_COUNT},
    {"tokens", 'n', OPTION_COUNT, COMMAND_BENCH, FIELD(tokens), "N",
     "generate the last N tokens of each sequence (default: 32)", 2, 65536},
    {"chat", 0, OPTION_FLAG, COMMAND_RUN, FIELD(chat), NULL,
     "the text is a user's message: apply the chat template", 0, 0},
    {"chat-template", 0, OPTION_TEXT, SAMPLE, FIELD(chat_template), "NAME",
     "template family (default: the model's own)", 0, 0},
    {"system", 0, OPTION_TEXT, SAMPLE, FIELD(system), "TEXT", "system message", 0, 0},
    {"stop", 0, OPTION_TEXTS, SAMPLE, FIELD(stops), "TEXT",
     "end where TEXT would appear; may be repeated", 0, 0},
    {"temp", 0, OPTION_REAL, SAMPLE, FIELD(temperature), "T", "temperature (0: greedy)", 0, 100},
    {"top-k", 0, OPTION_COUNT, SAMPLE, FIELD(top_k), "K", "draw from the K likeliest (0: all)", 0,
     MAX_COUNT},
    {"top-p", 0, OPTION_REAL, SAMPLE, FIELD(top_p), "P",
     "draw from the fewest that sum to P (1: all)", 0.001, 1},
    {"min-p", 0, OPTION_REAL, SAMPLE, FIELD(min_p), "P",
     "leave out those below P times the likeliest", 0, 1},
    {"repeat-penalty", 0, OPTION_REAL, SAMPLE, FIELD(repeat_penalty), "R",
     "penalty of recent tokens (1: none)", 0.01, 100},
    {"seed", 0, OPTION_COUNT, SAMPLE, FIELD(seed), "N", "the same seed draws the same text", 0,
     HUGE_VAL},
    {"greedy", 0, OPTION_FLAG, SAMPLE, FIELD(greedy), NULL, "always take the likeliest token", 0,
     0},
    {"ignore-eos", 0, OPTION_FLAG, SAMPLE, FIELD(ignore_eos), NULL,
     "go on past the end of sequence", 0, 0},
    {"draft", 0, OPTION_COUNT, SAMPLE, FIELD(draft), "N",
     "check N tokens at once that once followed these (default: 0)", 0, 31},
    {"session", 0, OPTION_TEXT, SAMPLE, FIELD(session), "FILE",
     "go on with the session that was saved in FILE", 0, 0},
    {"save-session", 0, OPTION_TEXT, SAMPLE, FIELD(save_session), "FILE",
     "save the session to FILE at the end", 0, 0},
    {"windows", 0, OPTION_COUNT, EVALUATE, FIELD(windows), "N", "at most N windows", 1, MAX_COUNT},
    {"score", 0, OPTION_CHOICE, EVALUATE, FIELD(score), "half|all",
     "which predictions of a window count", 0, 0},
    {"ref", 0, OPTION_TEXT, EVALUATE, FIELD(reference), "F|MODEL",
     "compare with stored logits (.safetensors) or a model", 0, 0},
    {"save-logits", 0, OPTION_TEXT, COMMAND_RUN | COMMAND_EVAL, FIELD(save_logits), "F",
     "write the logits to F (.safetensors)", 0, 0},
    {"method", 0, OPTION_CHOICE, COMMAND_QUANTIZE, QUANTIZE(method),
     "rtn|gptq|awq|smoothquant|llm-int8|nf4|fp4|importance", "how codes are found", 0, 0},
    {"as", 0, OPTION_CHOICE, COMMAND_QUANTIZE, QUANTIZE(container),
     "auto|gguf|gptq|awq|bnb|compressed-tensors|safetensors", "what OUT is", 0, 0},
    {"format", 0, OPTION_TEXT, COMMAND_QUANTIZE, QUANTIZE(format), "NAME",
     "a format of GGUF such as q4_k, instead of the five flags below", 0, 0},
    {"bits", 0, OPTION_COUNT, COMMAND_QUANTIZE, QUANTIZE(bits), "8|4|3|2", "bits of a code", 2, 8},
    {"granularity", 0, OPTION_CHOICE, COMMAND_QUANTIZE, QUANTIZE(granularity),
     "auto|tensor|channel|group", "what shares a scale", 0, 0},
    {"group", 0, OPTION_COUNT, COMMAND_QUANTIZE, QUANTIZE(group), "N",
     "weights of a group (default: 128 where it divides the rows)", 8, 65536},
    {"sym", 0, OPTION_FLAG, COMMAND_QUANTIZE, QUANTIZE(symmetric), NULL, "no zero points", 0, 0},
    {"asym", 0, OPTION_FLAG, COMMAND_QUANTIZE, QUANTIZE(asymmetric), NULL, "zero points", 0, 0},
    {"range", 0, OPTION_CHOICE, COMMAND_QUANTIZE, QUANTIZE(range), "auto|minmax|mse|percentile",
     "how the range of the codes is found", 0, 0},
    {"activation-range", 0, OPTION_CHOICE, COMMAND_QUANTIZE, QUANTIZE(activation_range),
     "auto|minmax|mse|percentile", "the same for static activations", 0, 0},
    {"percentile", 0, OPTION_REAL, COMMAND_QUANTIZE, QUANTIZE(percentile), "P",
     "for --range percentile (default: 99.9)", 50, 100},
    {"activations", 0, OPTION_CHOICE, COMMAND_QUANTIZE, QUANTIZE(activations),
     "auto|float|dynamic|static", "int8 inputs, ranges by token or from calibration", 0, 0},
    {"mix", 0, OPTION_TEXT, COMMAND_QUANTIZE, QUANTIZE(mix), "RULES",
     "other formats for some matrices, such as ffn_down=int8,*@0-3=keep", 0, 0},
    {"calib", 0, OPTION_TEXT, COMMAND_QUANTIZE, FIELD(calibration), "FILE",
     "calibration text (-: standard input)", 0, 0},
    {"calib-windows", 0, OPTION_COUNT, COMMAND_QUANTIZE, QUANTIZE(windows), "N",
     "at most N windows of it (default: 128)", 1, 65536},
    {"calib-ctx", 0, OPTION_COUNT, COMMAND_QUANTIZE, QUANTIZE(context), "N",
     "tokens of a window (default: 512)", 2, 65536},
    {"damp", 0, OPTION_REAL, COMMAND_QUANTIZE, QUANTIZE(damping), "SHARE",
     "gptq: of the mean diagonal, added to it (default: 0.01)", 1e-6, 1},
    {"act-order", 0, OPTION_FLAG, COMMAND_QUANTIZE, QUANTIZE(act_order), NULL,
     "gptq: columns with large inputs first", 0, 0},
    {"no-static-groups", 0, OPTION_FLAG, COMMAND_QUANTIZE, QUANTIZE(no_static_groups), NULL,
     "gptq: with --act-order, group columns in that order", 0, 0},
    {"smoothing", 0, OPTION_REAL, COMMAND_QUANTIZE, QUANTIZE(smoothing), "A",
     "smoothquant: the exponent (default: searched for)", 0.01, 1},
    {"single-quant", 0, OPTION_FLAG, COMMAND_QUANTIZE, QUANTIZE(single_quantized), NULL,
     "nf4, fp4: scales in fp32, not quantized themselves", 0, 0},
    {"outliers", 0, OPTION_REAL, COMMAND_QUANTIZE, QUANTIZE(outlier_threshold), "X",
     "llm-int8: inputs of at least X stay floats (default: 6)", 0.01, 65504},
    {"tensors", 0, OPTION_FLAG, COMMAND_INSPECT, FIELD(tensors), NULL, "list every tensor", 0, 0},
    {"batch", 0, OPTION_LIST, COMMAND_BENCH, FIELD(batches), "1,2,4",
     "sequences side by side (default: 1,4)", 1, 4096},
    {"ctx", 0, OPTION_LIST, COMMAND_BENCH, FIELD(contexts), "512,2k",
     "tokens in each sequence (default: 512,2k)", 4, MAX_CONTEXT},
    {"shared", 0, OPTION_COUNT, COMMAND_BENCH, FIELD(shared), "N",
     "the sequences begin with the same N tokens (default: 0)", 0, MAX_CONTEXT},
    {"host-cost", 0, OPTION_FLAG, COMMAND_BENCH, FIELD(host_cost), NULL,
     "what a decode step costs the host, over -n steps (1000)", 0, 0},
    {"ctx", 0, OPTION_COUNT, (ENGINE & ~COMMAND_BENCH) | COMMAND_INSPECT, FIELD(context), "N",
     "tokens of context (default: at most 8192; of a window: 512)", 4, MAX_CONTEXT},
    {"kv", 0, OPTION_KV, ENGINE | COMMAND_INSPECT, FIELD(kv), "FORMAT",
     "f32, f16, i8, i4, k=..,v=..; recent=N, first=N: docs/kv-cache.md", 0, 0},
    {"precise", 0, OPTION_FLAG, ENGINE, FIELD(precise), NULL, "activations in fp32", 0, 0},
    {"device", 0, OPTION_DEVICE, ENGINE, FIELD(device), "auto|cpu|vulkan[:N]",
     "where to run (default: auto); vulkan:0,vulkan:1 share the layers", 0, 0},
    {"device", 0, OPTION_DEVICE, COMMAND_INSPECT, FIELD(device), "auto|cpu|vulkan[:N]",
     "whose memory is predicted: a GPU's for vulkan, else the CPU's", 0, 0},
    {"split", 0, OPTION_SPLIT, ENGINE, FIELD(split), "3,1",
     "how several GPUs share them (default: by free memory)", 0, 0},
    {"gpu-layers", 0, OPTION_LAYERS, ENGINE, FIELD(gpu_layers), "N|auto",
     "the first N layers on the GPU", 0, 1048576},
    {"fallback", 0, OPTION_FLAG, ENGINE, FIELD(fallback), NULL,
     "let the CPU do what the device cannot", 0, 0},
    {"threads", 0, OPTION_COUNT, ENGINE | COMMAND_INSPECT | COMMAND_QUANTIZE, FIELD(threads), "N",
     "CPU threads (default: physical cores)", 1, 1024},
    {"cpu-mask", 0, OPTION_TEXT, ENGINE | COMMAND_DEVICES, FIELD(cpu_mask), "LEVEL",
     "highest instruction set to use, such as scalar or avx2", 0, 0},
    {"vulkan-mask", 0, OPTION_TEXT, ENGINE | COMMAND_DEVICES, FIELD(vulkan_mask), "baseline",
     "use no more of a GPU than the least one has", 0, 0},
    {"shader-dir", 0, OPTION_TEXT, ENGINE, FIELD(shader_dir), "DIR",
     "kernels from DIR, again when edited (-DNIB_RUNTIME_COMPILE=ON)", 0, 0},
    {"self-test", 0, OPTION_CHOICE, ENGINE | COMMAND_DEVICES, FIELD(self_test), "cached|full|off",
     "when kernels are checked before use", 0, 0},
    {"profile", 0, OPTION_FLAG, ENGINE & ~COMMAND_COMPARE, FIELD(profile), NULL,
     "time every operation", 0, 0},
    {"measure", 0, OPTION_FLAG, COMMAND_DEVICES, FIELD(measure), NULL,
     "measure what each device can do at most", 0, 0},
    {"json", 0, OPTION_FLAG, ALL & ~COMMAND_CHAT, FIELD(json), NULL,
     "print one JSON object (docs/json.md)", 0, 0},
    {"help", 'h', OPTION_FLAG, ALL, FIELD(help), NULL, "print this help", 0, 0},
    {"version", 0, OPTION_FLAG, ALL, FIELD(version), NULL, "print the version", 0, 0},
};
enum { TABLE_SIZE = sizeof table / sizeof table[0] };

unsigned options_distance(const char *left, const char *right)
{
    enum { LONGEST = 31 };
    size_t columns = strnlen(right, LONGEST);
    unsigned row[LONGEST + 1];
    for (unsigned j = 0; j <= columns; j++)
        row[j] = j;
    for (unsigned i = 0; i < LONGEST && left[i]; i++) {
        unsigned diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < columns; j++) {
            unsigned best = diagonal + (left[i] != right[j]);
            diagonal = row[j + 1];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j + 1] = diagonal + 1 < best ? diagonal + 1 : best;
        }
    }
    return row[columns];
}

/// Finds the flag that `name[0 .. size)` is for `command`, or where it has none that of another.
static const struct option *find_option(const struct command *command, const char *name,
                                        size_t size)
{
    const struct option *found = NULL;
    for (int i = 0; i < TABLE_SIZE; i++) {
        if (strlen(table[i].name) != size || memcmp(table[i].name, name, size) != 0)
            continue;
        if (!found || (table[i].commands & command->bit))
            found = &table[i];
    }
    return found;
}

static enum nib_status fail_unknown(const struct command *command, const char *name, size_t size,
                                    struct nib_error *err)
{
    char word[32];
    snprintf(word, sizeof word, "%.*s", (int)(size < 31 ? size : 31), name);
    const char *nearest = NULL;
    unsigned best = 4; // farther words are no slip of the hand
    for (int i = 0; i < TABLE_SIZE; i++) {
        unsigned distance = options_distance(word, table[i].name);
        if ((table[i].commands & command->bit) && distance < best) {
            best = distance;
            nearest = table[i].name;
        }
    }
    if (nearest)
        return fail_with(err, NIB_ERROR_ARGUMENT, "unknown flag --%s; did you mean --%s?", word,
                         nearest);
    return fail_with(err, NIB_ERROR_ARGUMENT, "unknown flag --%s; see 'nibble %s --help'", word,
                     command->name);
}

static enum nib_status store_number(const struct option *option, const char *flag, const char *text,
                                    void *field, struct nib_error *err)
{
    if (option->kind == OPTION_REAL) {
        struct option_real *real = field;
        double value;
        if (!value_parse_real(text, &value) || value < option->low || value > option->high)
            return fail_with(err, NIB_ERROR_ARGUMENT, "%s: '%.40s' is not a number from %g to %g",
                             flag, text, option->low, option->high);
        *real = (struct option_real){.given = true, .value = value};
        return NIB_OK;
    }
    struct option_count *count = field;
    uint64_t value;
    if (option->kind == OPTION_LAYERS && strcmp(text, "auto") == 0) {
        *count = (struct option_count){.given = true, .value = GPU_LAYERS_AUTO};
        return NIB_OK;
    }
    bool parsed = value_parse_count(text, &value);
    if (!parsed && isinf(option->high))
        return fail_with(err, NIB_ERROR_ARGUMENT, "%s: '%.40s' is not a whole number below 2^64",
                         flag, text);
    if (!parsed || (double)value < option->low || (double)value > option->high)
        return fail_with(
            err, NIB_ERROR_ARGUMENT, "%s: '%.40s' is not a whole number from %.0f to %.0f%s", flag,
            text, option->low, option->high, option->kind == OPTION_LAYERS ? ", nor auto" : "");
    *count = (struct option_count){.given = true, .value = value};
    return NIB_OK;
}

static enum nib_status store_list(const struct option *option, const char *flag, const char *text,
                                  struct option_list *list, struct nib_error *err)
{
    struct option_list parsed;
    enum nib_status status = value_parse_list(flag, text, &parsed, err);
    if (status != NIB_OK)
        return status;
    free(list->values);
    *list = parsed;
    if (list->values[0] >= option->low && list->values[list->count - 1] <= option->high)
        return NIB_OK;
    return fail_with(err, NIB_ERROR_ARGUMENT,
                     "%s: '%.40s' has a number that is not from %.0f to "
                     "%.0f",
                     flag, text, option->low, option->high);
}

static enum nib_status store_text(struct option_texts *texts, const char *text,
                                  struct nib_error *err)
{
    const char **grown = realloc(texts->texts, (texts->count + 1) * sizeof *grown);
    if (!grown)
        return fail_memory(err);
    grown[texts->count++] = text;
    texts->texts = grown;
    return NIB_OK;
}

/// Puts the flag's value, NULL for OPTION_FLAG, into its field. `flag` is how it was written.
static enum nib_status store(const struct option *option, const char *flag, const char *text,
                             struct options *options, struct nib_error *err)
{
    void *field = (char *)options + option->offset;
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        return NIB_OK;
    case OPTION_TEXT:
        *(const char **)field = text;
        return NIB_OK;
    case OPTION_TEXTS:
        return store_text(field, text, err);
    case OPTION_IDS:
        return value_parse_ids(flag, text, field, err);
    case OPTION_LIST:
        return store_list(option, flag, text, field, err);
    case OPTION_COUNT:
    case OPTION_LAYERS:
    case OPTION_REAL:
        return store_number(option, flag, text, field, err);
    case OPTION_CHOICE:
        if (value_parse_choice(text, option->value, field))
            return NIB_OK;
        break;
    case OPTION_DEVICE:
        if (value_parse_device(text, field))
            return NIB_OK;
        break;
    case OPTION_SPLIT:
        if (value_parse_split(text, field))
            return NIB_OK;
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: '%.40s' is not a list of positive numbers such as 3,1", flag, text);
    case OPTION_KV:
        if (value_parse_kv(text, field))
            return NIB_OK;
        return fail_with(
            err, NIB_ERROR_ARGUMENT,
            "%s: '%.40s' is not f32, f16, i8, i4, nor such as k=f16,v=i8 or k=i4c,v=i4", flag,
            text);
    }
    return fail_with(err, NIB_ERROR_ARGUMENT, "%s: '%.40s' is none of %s", flag, text,
                     option->value);
}

/// The arguments and the one to be read next.
struct arguments {
    int count, next;
    char **texts;
};

/// Takes `option`, written as `flag`, with the value in the same argument, or NULL.
static enum nib_status take(const struct option *option, const char *flag, const char *inside,
                            struct arguments *arguments, struct options *options,
                            struct nib_error *err)
{
    if (option->kind == OPTION_FLAG) {
        if (inside)
            return fail_with(err, NIB_ERROR_ARGUMENT, "%s takes no value", flag);
    } else if (!inside) {
        if (arguments->next == arguments->count)
            return fail_with(err, NIB_ERROR_ARGUMENT, "%s needs a value: %s", flag, option->value);
        inside = arguments->texts[arguments->next++];
    }
    return store(option, flag, inside, options, err);
}

static enum nib_status take_long(const struct command *command, const char *argument,
                                 struct arguments *arguments, struct options *options,
                                 struct nib_error *err)
{
    const char *name = argument + 2;
    size_t size = strcspn(name, "=");
    const struct option *option = find_option(command, name, size);
    if (!option)
        return fail_unknown(command, name, size, err);
    char flag[40];
    snprintf(flag, sizeof flag, "--%s", option->name);
    if (!(option->commands & command->bit))
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s is not for 'nibble %s'; see 'nibble %s --help'", flag, command->name,
                         command->name);
    return take(option, flag, name[size] == '=' ? name + size + 1 : NULL, arguments, options, err);
}

static enum nib_status take_short(const struct command *command, const char *argument,
                                  struct arguments *arguments, struct options *options,
                                  struct nib_error *err)
{
    char flag[3] = {'-', argument[1], '\0'};
    for (int i = 0; i < TABLE_SIZE; i++) {
        if (table[i].letter == argument[1] && (table[i].commands & command->bit))
            return take(&table[i], flag, argument[2] ? argument + 2 : NULL, arguments, options,
                        err);
    }
    return fail_with(err, NIB_ERROR_ARGUMENT, "unknown flag %.40s; see 'nibble %s --help'",
                     argument, command->name);
}

/// Checks what the table cannot say: flags that exclude each other or are needed.
static enum nib_status check(const struct command *command, const struct options *options,
                             struct nib_error *err)
{
    if (command->operand && (!options->model || options->model[0] == '\0'))
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: no model; give a .gguf file or a Hugging Face folder", command->name);
    int texts = (options->prompt != NULL) + (options->file != NULL) + options->prompt_ids.given +
                options->detokenize.given;
    if (texts > 1)
        return fail_with(err, NIB_ERROR_ARGUMENT, "%s: give only one of -p, -f and %s",
                         command->name,
                         command->bit == COMMAND_RUN ? "--prompt-ids" : "--detokenize");
    if (texts == 0 && command->bit == COMMAND_RUN && !options->session)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "run: no prompt; give -p TEXT, -f FILE or --prompt-ids 1,2,3");
    if (texts == 0 && command->bit == COMMAND_RUN && options->chat)
        return fail_with(err, NIB_ERROR_ARGUMENT, "run: --chat needs a text; give -p or -f");
    if (options->session && options->system)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: the saved session has its system message already; leave out --system",
                         command->name);
    if (options->session && options->save_logits)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "run: --save-logits needs all positions, of which --session leaves out "
                         "those computed before");
    if (texts == 0 && command->bit == COMMAND_TOKENIZE)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "tokenize: no text; give -p TEXT, -f FILE or --detokenize 1,2,3");
    if (command->bit == COMMAND_QUANTIZE && (!options->output || options->output[0] == '\0'))
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "quantize: no output; name a .gguf file or a folder after the model");
    if (options->quantize.symmetric && options->quantize.asymmetric)
        return fail_with(err, NIB_ERROR_ARGUMENT, "quantize: give only one of --sym and --asym");
    if (texts == 0 && command->bit == COMMAND_EVAL)
        return fail_with(err, NIB_ERROR_ARGUMENT, "eval: no text; give -f FILE");
    if (texts == 0 && command->bit == COMMAND_COMPARE && options->reference)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "compare: --ref compares distributions over a text; give -f FILE");
    if (options->split.count > 0 && options->split.count != options->device.count)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: --split has %u numbers for %u devices; name each GPU, as in --device "
                         "vulkan:0,vulkan:1",
                         command->name, (unsigned)options->split.count,
                         (unsigned)options->device.count);
    if (options->prompt_ids.given && options->chat)
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "run: --chat needs a text, which --prompt-ids is not");
    if (options->host_cost && (options->batches.given || options->contexts.given ||
                               options->shared.given || options->profile))
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "bench: --host-cost excludes --batch, --ctx, --shared and --profile");
    if (command->bit == COMMAND_DEVICES && (options->cpu_mask || options->vulkan_mask) &&
        !options->measure && options->self_test != NIB_SELF_TEST_FULL)
        return fail_with(err, NIB_ERROR_ARGUMENT, "devices: %s needs --measure or --self-test full",
                         options->cpu_mask ? "--cpu-mask" : "--vulkan-mask");
    if (command->bit == COMMAND_RUN && !options->chat &&
        (options->system || options->chat_template))
        return fail_with(err, NIB_ERROR_ARGUMENT, "run: %s needs --chat",
                         options->system ? "--system" : "--chat-template");
    if (options->greedy && (options->temperature.given || options->top_k.given ||
                            options->top_p.given || options->min_p.given))
        return fail_with(err, NIB_ERROR_ARGUMENT,
                         "%s: --greedy excludes --temp, --top-k, --top-p and --min-p",
                         command->name);
    for (size_t i = 0; i < options->stops.count; i++) {
        if (options->stops.texts[i][0] == '\0')
            return fail_with(err, NIB_ERROR_ARGUMENT, "--stop: the text is empty");
    }
    return NIB_OK;
}

enum nib_status options_parse(const struct command *command, int argc, char **argv,
                              struct options *out_options, struct nib_error *err)
{
    *out_options = (struct options){0};
    struct arguments arguments = {.count = argc, .texts = argv};
    bool flags = true;
    while (arguments.next < argc) {
        const char *argument = argv[arguments.next++];
        enum nib_status status = NIB_OK;
        if (flags && strcmp(argument, "--") == 0)
            flags = false;
        else if (flags && argument[0] == '-' && argument[1] == '-')
            status = take_long(command, argument, &arguments, out_options, err);
        else if (flags && argument[0] == '-' && argument[1] != '\0')
            status = take_short(command, argument, &arguments, out_options, err);
        else if (out_options->operands.count < command->most_operands)
            status = store_text(&out_options->operands, argument, err);
        else
            status = fail_with(err, NIB_ERROR_ARGUMENT, "%s: unexpected argument '%.80s'",
                               command->name, argument);
        if (status != NIB_OK)
            return status;
    }
    if (out_options->operands.count > 0)
        out_options->model = out_options->operands.texts[0];
    if (out_options->operands.count > 1)
        out_options->output = out_options->operands.texts[1];
    if (out_options->help || out_options->version)
        return NIB_OK;
    return check(command, out_options, err);
}

void options_free(struct options *options)
{
    free(options->operands.texts);
    free(options->stops.texts);
    free(options->prompt_ids.ids);
    free(options->detokenize.ids);
    free(options->batches.values);
    free(options->contexts.values);
    *options = (struct options){0};
}

void options_print_help(const struct command *command, FILE *file)
{
    fprintf(file, "usage: nibble %s%s%s%s%s\n%s\n\n", command->name, command->operand ? " " : "",
            command->operand ? command->operand : "", command->synopsis[0] ? " " : "",
            command->synopsis, command->summary);
    for (int i = 0; i < TABLE_SIZE; i++) {
        const struct option *option = &table[i];
        if (!(option->commands & command->bit))
            continue;
        char letter[8] = "    ", heading[96];
        if (option->letter)
            snprintf(letter, sizeof letter, "-%c, ", option->letter);
        snprintf(heading, sizeof heading, "%s--%s%s%s", letter, option->name,
                 option->value ? " " : "", option->value ? option->value : "");
        fprintf(file, "  %-30s  %s\n", heading, option->help);
    }
    if (command->notes)
        fprintf(file, "\n%s\n", command->notes);
}
