# Sourced: programs of this build under the loader and the drivers of another Debian system.
# shellcheck shell=bash

root_libraries=usr/lib/x86_64-linux-gnu

# root_take_programs ROOT BUILD FOLDER PROGRAM...: copies to FOLDER, whose path must be short, that
# start with the root's loader: Criterion starts its program anew, so that a loader on the command
# line would be lost. The shorter path is filled up with zeros.
root_take_programs() {
    local root=$1 build=$2 folder=$3 loader=/lib64/ld-linux-x86-64.so.2 link=$3/ld program padding
    shift 3
    ln -s "$root$loader" "$link"
    padding=$(printf '\\x00%.0s' $(seq $((${#loader} - ${#link}))))
    for program in "$@"; do
        LC_ALL=C sed "s|$loader|$link$padding|" "$build/$program" >"$folder/$(basename "$program")"
        chmod +x "$folder/$(basename "$program")"
    done
}

# root_library_path ROOT: what LD_LIBRARY_PATH must be for them.
root_library_path() {
    printf '%s/%s:/%s\n' "$1" "$root_libraries" "$root_libraries"
}

