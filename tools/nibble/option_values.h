/// Values of flags, strictly parsed: each function takes the whole text or refuses it.
#ifndef TOOLS_NIBBLE_OPTION_VALUES_H
#define TOOLS_NIBBLE_OPTION_VALUES_H

#include "tools/nibble/options.h"

/// Parses decimal digits without a sign. Returns false where the text is none, or above 2^64 − 1.
bool value_parse_count(const char *text, uint64_t *out_value);
/// Parses a decimal number with sign, fraction and exponent; not hexadecimal, infinite or NaN.
bool value_parse_real(const char *text, double *out_value);
/// Parses "auto", "cpu", "vulkan", or "vulkan:N" once or more, with commas between.
bool value_parse_device(const char *text, struct option_device *out_device);
/// Parses "3,1": positive numbers.
bool value_parse_split(const char *text, struct option_split *out_split);
/// Parses a KV format, or "k=FORMAT,v=FORMAT" in either order; one left out is the default.
bool value_parse_kv(const char *text, struct option_kv *out_kv);
/// Finds `text` among the names in `choices`, separated by '|', and gives its position.
bool value_parse_choice(const char *text, const char *choices, unsigned *out_index);
/// Parses "1,2,3"; white space may follow a comma. Errors: argument (names the id), memory.
enum nib_status value_parse_ids(const char *flag, const char *text, struct option_ids *out_ids,
                                struct nib_error *err);
/// Parses numbers such as "512,2k", where k is 1024, and sorts them. The list's memory is to be
/// freed. Errors: argument (names the place), memory.
enum nib_status value_parse_list(const char *flag, const char *text, struct option_list *out_list,
                                 struct nib_error *err);

#endif
