/// The commands, one a file. Each takes checked options, writes its data to standard output and
/// returns how it ended; main turns that into the exit status and the error's line.
#ifndef TOOLS_NIBBLE_COMMANDS_H
#define TOOLS_NIBBLE_COMMANDS_H

#include "tools/nibble/options.h"

enum nib_status command_run(const struct options *options, struct nib_error *err);
enum nib_status command_chat(const struct options *options, struct nib_error *err);
enum nib_status command_tokenize(const struct options *options, struct nib_error *err);
enum nib_status command_eval(const struct options *options, struct nib_error *err);
enum nib_status command_compare(const struct options *options, struct nib_error *err);
enum nib_status command_inspect(const struct options *options, struct nib_error *err);
enum nib_status command_quantize(const struct options *options, struct nib_error *err);
enum nib_status command_bench(const struct options *options, struct nib_error *err);
enum nib_status command_devices(const struct options *options, struct nib_error *err);

#endif
