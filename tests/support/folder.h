/// A folder of the test's own, under TMPDIR or else /tmp. Works in programs that nib_use_folder
/// (tests/support/CMakeLists.txt) links.
#ifndef TESTS_SUPPORT_FOLDER_H
#define TESTS_SUPPORT_FOLDER_H

#include <stddef.h>

/// Fixtures for Test and TestSuite; the folder goes with all that is in it.
void make_folder(void);
void remove_folder(void);
/// A path in the folder, or with NULL its own (a static string; four calls later it is used again).
const char *path_in_folder(const char *name);
void put_file(const char *path, const void *data, size_t size);

#endif
