# Compiles one shader, optimises and validates it, and writes its words as a C array. Run by CMake:
#   cmake -DNAME= -DSOURCE= -DMACROS= -DOPTIONAL= -DOUTPUT= -DGLSLANG= -DSPIRV_OPT= -DSPIRV_VAL= -P
# An optional shader that this compiler cannot compile becomes an empty array.
set(raw "${OUTPUT}.raw.spv")
set(spirv "${OUTPUT}.spv")
set(target vulkan1.1)
list(TRANSFORM MACROS PREPEND "-D")

# A compiler that was only unpacked does not know where its libraries are.
get_filename_component(libraries "${GLSLANG}/../../lib" ABSOLUTE)
if(EXISTS "${libraries}/libglslang.so")
  set(ENV{LD_LIBRARY_PATH} "${libraries}")
endif()

execute_process(
  COMMAND "${GLSLANG}" --quiet -V --target-env ${target} ${MACROS} -o "${raw}" "${SOURCE}"
  RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
if(result AND OPTIONAL)
  message(WARNING "nibble: shader ${NAME} is left out; this compiler says:\n${text}")
  file(WRITE "${OUTPUT}" "#include <stddef.h>\n#include <stdint.h>\n
extern const uint32_t nib_spirv_${NAME}[];
extern const size_t nib_spirv_size_${NAME};
const uint32_t nib_spirv_${NAME}[1] = {0};
const size_t nib_spirv_size_${NAME} = 0;\n")
  return()
endif()
if(result)
  message(FATAL_ERROR "nibble: shader ${NAME}:\n${text}")
endif()

# What -O does but for unrolling: drivers unroll marked loops themselves, once specialization has
# taken all but one format out of them.
set(passes --eliminate-dead-branches --merge-return --inline-entry-points-exhaustive
    --eliminate-dead-functions --eliminate-dead-code-aggressive --private-to-local
    --eliminate-local-single-block --eliminate-local-single-store --scalar-replacement=100
    --convert-local-access-chains --eliminate-local-single-block --eliminate-local-single-store
    --eliminate-dead-code-aggressive --ssa-rewrite --eliminate-dead-code-aggressive
    --redundancy-elimination --simplify-instructions --vector-dce --eliminate-dead-inserts
    --eliminate-dead-branches --if-conversion --merge-blocks --eliminate-dead-code-aggressive
    --strip-debug)
foreach(command "${SPIRV_OPT};${passes};${raw};-o;${spirv}"
                "${SPIRV_VAL};--target-env;${target};${spirv}")
  execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_VARIABLE text
                  ERROR_VARIABLE text)
  if(result)
    message(FATAL_ERROR "nibble: shader ${NAME}:\n${text}")
  endif()
endforeach()

file(READ "${spirv}" hex HEX)
string(REGEX REPLACE "(..)(..)(..)(..)" "0x\\4\\3\\2\\1,\n" words "${hex}")
file(SIZE "${spirv}" size)
file(WRITE "${OUTPUT}" "#include <stddef.h>\n#include <stdint.h>\n
extern const uint32_t nib_spirv_${NAME}[];
extern const size_t nib_spirv_size_${NAME};
const uint32_t nib_spirv_${NAME}[] = {\n${words}};
const size_t nib_spirv_size_${NAME} = ${size};\n")
