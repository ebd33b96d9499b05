#include "tools/nibble/line_editor.h"
#include "tools/nibble/system.h"
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#ifdef NIB_HAVE_LIBEDIT
#include <histedit.h>
#include <unistd.h>
#include <wchar.h>
#endif

#define HISTORY_LINES 500

struct line_editor {
    bool interactive;
    const char *prompt;
    char *line; ///< getline's
    size_t capacity;
#ifdef NIB_HAVE_LIBEDIT
    EditLine *edit; ///< NULL: lines are read as they come
    History *history;
    char *history_path; ///< or NULL
#endif
};

#ifdef NIB_HAVE_LIBEDIT
static char *show_prompt(EditLine *edit)
{
    void *data = NULL;
    el_get(edit, EL_CLIENTDATA, &data);
    const struct line_editor *editor = data;
    return (char *)(uintptr_t)editor->prompt; // libedit takes it without const and only reads it
}

/// Reads one character for libedit, whose own function goes on reading after a Ctrl-C.
static int read_character(EditLine *edit, wchar_t *out_character)
{
    mbstate_t state = {0};
    (void)edit;
    for (;;) {
        char byte;
        if (!system_wait_input())
            return -1;
        ssize_t count = read(STDIN_FILENO, &byte, 1);
        if (count == 0 || (count < 0 && errno != EINTR))
            return (int)count;
        if (count < 0)
            continue;
        size_t used = mbrtowc(out_character, &byte, 1, &state);
        if (used == (size_t)-1) // what is no text is dropped
            state = (mbstate_t){0};
        else if (used != (size_t)-2)
            return 1;
    }
}

/// Sets up libedit. Without it, or without memory for it, lines are read as they come.
static void start_editing(struct line_editor *editor)
{
    HistEvent event;
    // Characters of more than one byte are edited as one only in a locale that knows them.
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
    editor->history = history_init();
    editor->edit = el_init("nibble", stdin, stdout, stderr);
    if (!editor->edit || !editor->history)
        return;
    history(editor->history, &event, H_SETSIZE, HISTORY_LINES);
    history(editor->history, &event, H_SETUNIQUE, 1);
    el_set(editor->edit, EL_CLIENTDATA, editor);
    el_set(editor->edit, EL_PROMPT, show_prompt);
    el_set(editor->edit, EL_EDITOR, "emacs");
    el_set(editor->edit, EL_HIST, history, editor->history);
    el_set(editor->edit, EL_SIGNAL, 1);
    el_set(editor->edit, EL_GETCFN, read_character);
    el_source(editor->edit, NULL);
    editor->history_path = system_user_path(SYSTEM_STATE, "history");
    if (editor->history_path)
        history(editor->history, &event, H_LOAD, editor->history_path);
}

static enum line_result edit_line(struct line_editor *editor, const char **out_line,
                                  size_t *out_size)
{
    int count = 0;
    errno = 0;
    const char *line = el_gets(editor->edit, &count);
    if (system_interrupted()) {
        system_forget_interrupt();
        el_reset(editor->edit);
        putchar('\n');
        return LINE_INTERRUPTED;
    }
    if (!line || count <= 0)
        return LINE_END;
    *out_line = line;
    *out_size = (size_t)count;
    return LINE_TEXT;
}
#endif

struct line_editor *line_editor_create(void)
{
    struct line_editor *editor = calloc(1, sizeof *editor);
    if (!editor)
        return NULL;
    editor->interactive = system_is_terminal(stdin);
#ifdef NIB_HAVE_LIBEDIT
    if (editor->interactive && system_is_terminal(stdout))
        start_editing(editor);
#endif
    return editor;
}

void line_editor_destroy(struct line_editor **editor)
{
    if (!*editor)
        return;
#ifdef NIB_HAVE_LIBEDIT
    if ((*editor)->edit)
        el_end((*editor)->edit);
    if ((*editor)->history)
        history_end((*editor)->history);
    free((*editor)->history_path);
#endif
    free((*editor)->line);
    free(*editor);
    *editor = NULL;
}

static enum line_result read_plain(struct line_editor *editor, const char **out_line,
                                   size_t *out_size)
{
    if (editor->interactive) {
        fputs(editor->prompt, stdout);
        fflush(stdout);
    }
    errno = 0;
    ssize_t count = getline(&editor->line, &editor->capacity, stdin);
    if (count < 0 && system_interrupted()) {
        clearerr(stdin);
        system_forget_interrupt();
        if (editor->interactive)
            putchar('\n');
        return LINE_INTERRUPTED;
    }
    if (count < 0)
        return feof(stdin) ? LINE_END : LINE_FAILED;
    *out_line = editor->line;
    *out_size = (size_t)count;
    return LINE_TEXT;
}

enum line_result line_editor_read(struct line_editor *editor, const char *prompt,
                                  const char **out_line, size_t *out_size)
{
    editor->prompt = prompt;
    enum line_result result;
#ifdef NIB_HAVE_LIBEDIT
    if (editor->edit)
        result = edit_line(editor, out_line, out_size);
    else
#endif
        result = read_plain(editor, out_line, out_size);
    if (result == LINE_TEXT && *out_size > 0 && (*out_line)[*out_size - 1] == '\n')
        --*out_size;
    return result;
}

void line_editor_remember(struct line_editor *editor, const char *line)
{
#ifdef NIB_HAVE_LIBEDIT
    HistEvent event;
    if (!editor->edit || !editor->history)
        return;
    history(editor->history, &event, H_ENTER, line);
    if (editor->history_path)
        history(editor->history, &event, H_SAVE, editor->history_path);
#else
    (void)editor;
    (void)line;
#endif
}
