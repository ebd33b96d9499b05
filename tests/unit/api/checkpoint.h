/// A copy of a checkpoint, in the test's own folder (tests/support/folder.h).
#ifndef TESTS_UNIT_API_CHECKPOINT_H
#define TESTS_UNIT_API_CHECKPOINT_H

/// What the folder of a checkpoint may hold.
enum { CHECKPOINT_FILES = 5, CHECKPOINT_WEIGHTS = 2 };
extern const char *const checkpoint_names[CHECKPOINT_FILES];

/// Copies what `folder`, in tests/data, holds of these files, JSON without a line feed at its end,
/// and puts in `tokenizer` (or NULL), one of tests/data/tokenizer/hf.
void checkpoint_copy(const char *folder, const char *tokenizer);

#endif
