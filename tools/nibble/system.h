/// What the program asks of the operating system: clock, signals, terminal, memory, folders.
#ifndef TOOLS_NIBBLE_SYSTEM_H
#define TOOLS_NIBBLE_SYSTEM_H

#include <nibble/base.h>
#include <stdio.h>

struct nib_session;

/// Opens those of descriptors 0 to 2 that the caller closed, on nothing, so that no file opened
/// later takes their place and receives what is meant for standard output.
void system_guard_descriptors(void);

/// Returns a monotonic time in nanoseconds.
uint64_t system_now_ns(void);
/// Returns the largest resident size of this process in bytes, 0 where it is not known.
uint64_t system_peak_rss(void);
/// Returns a number that differs from run to run.
uint64_t system_random(void);

/// Returns NULL where a file can be made at `path`, else the reason why not; a static text.
const char *system_why_not_writable(const char *path);

bool system_is_terminal(FILE *file);

/// From now on Ctrl-C is remembered and cancels the session being watched; a second one, before
/// the first is forgotten, ends the program. A broken pipe is an error of the write.
void system_catch_signals(void);
/// From now on SIGTERM and SIGHUP count as Ctrl-C: for commands with half-written files to remove.
void system_catch_termination(void);
/// Returns whether there was a Ctrl-C since it was last forgotten.
bool system_interrupted(void);
void system_forget_interrupt(void);
/// Waits until standard input can be read, or at its end; returns false where there is a Ctrl-C
/// that was not forgotten, also one that came before.
bool system_wait_input(void);
/// Sets the session that Ctrl-C cancels, or NULL. It must not be destroyed while it is watched.
void system_watch(struct nib_session *session);

/// Which of the user's folders a file is kept in.
enum system_folder { SYSTEM_CACHE, SYSTEM_STATE };
/// Returns the path of `name` in the program's own folder, which is made where it does not exist,
/// by the XDG base directory specification; to be freed. NULL where there is no home folder or no
/// memory. `name` "" gives the folder itself.
char *system_user_path(enum system_folder folder, const char *name);

#endif
