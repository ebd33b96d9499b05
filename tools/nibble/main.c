#include "tools/nibble/commands.h"
#include "tools/nibble/message.h"
#include "tools/nibble/output.h"
#include "tools/nibble/system.h"
#include <string.h>

/// More models than fit in one table that anyone reads.
enum { MAX_MODELS = 64 };

static const struct command commands[] = {
    {COMMAND_RUN, "run", "MODEL", 1, "(-p TEXT | -f FILE | --prompt-ids 1,2,3) [FLAG...]",
     "Continues a prompt, or answers it with --chat.",
     "Without --temp, --top-k, --top-p and --min-p the model's own advice counts, else\n"
     "temperature 0.8, top-p 0.95, min-p 0.05. Without --chat the text of special tokens is taken\n"
     "as these tokens. Ctrl-C ends the generation; what there is is printed, and the exit status\n"
     "is 130.",
     command_run},
    {COMMAND_CHAT, "chat", "MODEL", 1, "[FLAG...]", "Talks with a model.",
     "Ctrl-C stops an answer, Ctrl-D ends the program, /help lists what else can be typed.",
     command_chat},
    {COMMAND_TOKENIZE, "tokenize", "MODEL", 1, "(-p TEXT | -f FILE | --detokenize 1,2,3) [FLAG...]",
     "Prints the token ids of a text, or the text of token ids.", NULL, command_tokenize},
    {COMMAND_EVAL, "eval", "MODEL", 1, "-f FILE [FLAG...]",
     "Measures the perplexity of a text, and with --ref the distance to a reference.",
     "The text is cut into windows of --ctx tokens; a last, partial one is left out. --score half\n"
     "counts the predictions of each window's second half, as llama-perplexity does.",
     command_eval},
    {COMMAND_COMPARE, "compare", "MODEL...", MAX_MODELS, "[-f FILE [--ref F|MODEL]] [FLAG...]",
     "Measures models side by side: size, memory, speed, perplexity, divergence.",
     "Speeds are those of a prompt of 512 tokens, or of --ctx, and of the tokens after it, the\n"
     "median of three runs. With -f the perplexity of the text is measured as 'nibble eval' does,\n"
     "with --ref also the distance to a reference.",
     command_compare},
    {COMMAND_INSPECT, "inspect", "MODEL", 1, "[FLAG...]",
     "Shows what a model is made of and what memory it takes.",
     "--ctx and --kv add a context length and a cache format to the table of memory.",
     command_inspect},
    {COMMAND_QUANTIZE, "quantize", "MODEL", 2, "OUT [FLAG...]",
     "Writes a model anew with fewer bits a weight.",
     "OUT is a .gguf file or a folder, which must not be there; it appears whole or not at all.\n"
     "gptq, awq, smoothquant and static activations need --calib; what an interrupted run of them\n"
     "has done is kept in OUT.part, and the same command goes on from there.",
     command_quantize},
    {COMMAND_BENCH, "bench", "MODEL", 1, "[FLAG...]",
     "Measures speed and memory as batch and context grow.",
     "Each sequence has a prompt of its own and then generates the last -n tokens of its context,\n"
     "all sequences side by side. Prefill is timed on the sequences that a batch adds to the one\n"
     "before it. Both are timed after a warm-up (none with --profile). KV cache and memory are\n"
     "what is in use.",
     command_bench},
    {COMMAND_DEVICES, "devices", NULL, 0, "[FLAG...]", "Lists what a model can run on.", NULL,
     command_devices},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(FILE *file)
{
    fputs("usage: nibble COMMAND ...\nRuns quantized language models.\n\n", file);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(file, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\nMODEL is a .gguf file or a Hugging Face folder. 'nibble COMMAND --help' lists a\n"
          "command's flags. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n",
          file);
}

static const struct command *find_command(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static int refuse_command(const char *name)
{
    char list[256] = "";
    const char *nearest = NULL;
    unsigned best = 3; // farther words are no slip of the hand
    for (int i = 0; i < N_COMMANDS; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", commands[i].name);
        unsigned distance = options_distance(name, commands[i].name);
        if (distance < best) {
            best = distance;
            nearest = commands[i].name;
        }
    }
    if (nearest)
        message_print("unknown command '%.40s'; did you mean %s? There are %s", name, nearest,
                      list);
    else
        message_print("unknown command '%.40s'; there are %s", name, list);
    return EXIT_USAGE;
}

/// Flushes standard output after `status`, the command's, and says what went wrong.
static int finish(enum nib_status status, struct nib_error *err)
{
    struct nib_error output_err;
    bool written = output_finish(&output_err) == NIB_OK;
    bool interrupted = system_interrupted();
    if (interrupted && status == NIB_ERROR_CANCELLED)
        status = NIB_OK; // as the user wants it; what fails besides is said
    if (status == NIB_OK && !written)
        *err = output_err;
    bool done = status == NIB_OK && written;
    if (!done && err->message[0] != '\0')
        message_print("%s", err->message);
    return interrupted ? EXIT_INTERRUPTED : done ? EXIT_DONE : EXIT_FAILED;
}

static int run_command(const struct command *command, int argc, char **argv)
{
    struct options options;
    struct nib_error err = {.status = NIB_OK};
    int result;
    enum nib_status status = options_parse(command, argc, argv, &options, &err);
    if (status != NIB_OK) {
        message_print("%s", err.message);
        result = status == NIB_ERROR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
    } else if (options.help) {
        options_print_help(command, stdout);
        result = finish(NIB_OK, &err);
    } else if (options.version) {
        printf("nibble %s\n", nib_version());
        result = finish(NIB_OK, &err);
    } else {
        system_catch_signals();
        status = command->run(&options, &err);
        result = finish(status, &err);
    }
    options_free(&options);
    return result;
}

int main(int argc, char **argv)
{
    struct nib_error err;
    system_guard_descriptors();
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return finish(NIB_OK, &err);
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("nibble %s\n", nib_version());
        return finish(NIB_OK, &err);
    }
    const struct command *command = find_command(argv[1]);
    return command ? run_command(command, argc - 2, argv + 2) : refuse_command(argv[1]);
}
