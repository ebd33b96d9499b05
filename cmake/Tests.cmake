# How tests are added.

set(NIB_TEST_DATA "${PROJECT_SOURCE_DIR}/tests/data")
# Criterion lets a test pass whose sanitizer reports a leak.
set(NIB_FAIL_PATTERN "(Address|Leak|Thread)Sanitizer;runtime error")
set(NIB_TAP_FOLDER "${PROJECT_BINARY_DIR}/tap")
file(MAKE_DIRECTORY "${NIB_TAP_FOLDER}")

# True where Criterion can run: not under the thread sanitizer, which it does not survive.
set(NIB_CRITERION OFF)
if(CRITERION_FOUND AND NOT NIB_SANITIZE MATCHES "thread" AND NOT NIB_FUZZ)
  set(NIB_CRITERION ON)
endif()

function(nib_set_up_test target)
  nib_set_up(${target})
  target_compile_definitions(${target} PRIVATE
    NIB_TEST_DATA="${NIB_TEST_DATA}" NIB_PROGRAM="${PROJECT_BINARY_DIR}/nibble"
    NIB_MODELS="${PROJECT_SOURCE_DIR}/models")
endfunction()

# nib_add_unit_test(<name> SOURCES <file>... [LIBS <target>...] [LABELS <label>...] [TIMEOUT s])
# A Criterion program. Its TAP report is BUILD_DIR/tap/<name>.tap, from which skips are counted.
function(nib_add_unit_test name)
  if(NOT NIB_CRITERION)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;LIBS;LABELS")
  add_executable(${name} ${arg_SOURCES})
  nib_set_up_test(${name})
  target_link_libraries(${name} PRIVATE ${arg_LIBS} PkgConfig::CRITERION)
  add_test(NAME ${name} COMMAND ${name} "--tap=${NIB_TAP_FOLDER}/${name}.tap")
  nib_set_test_properties(${name} "${arg_TIMEOUT}" "unit;${arg_LABELS}")
endfunction()

# nib_add_plain_test(<name> SOURCES <file>... [LIBS <target>...] [ARGS <arg>...]
#                    [LABELS <label>...] [TIMEOUT s])
# A program with a main of its own: 0 passed, 77 skipped, else failed. The thread sanitizer's
# build runs only these.
function(nib_add_plain_test name)
  if(NIB_FUZZ)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;LIBS;ARGS;LABELS")
  add_executable(${name} ${arg_SOURCES})
  nib_set_up_test(${name})
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
  add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
  nib_set_test_properties(${name} "${arg_TIMEOUT}" "plain;${arg_LABELS}")
endfunction()

# Limits, labels and what counts as skipped or failed, for a test that add_test made.
function(nib_set_test_properties name timeout labels)
  if(NOT timeout)
    set(timeout 300)
  endif()
  set_tests_properties(${name} PROPERTIES
    TIMEOUT ${timeout} LABELS "${labels}" SKIP_RETURN_CODE 77
    FAIL_REGULAR_EXPRESSION "${NIB_FAIL_PATTERN}")
  # lavapipe 22.3 leaks 128 bytes in a module that is gone when the report is made, so that no
  # suppression can name it: under sanitizers only the tests that ask for a driver load one.
  if(NIB_SANITIZE)
    set_tests_properties(${name} PROPERTIES ENVIRONMENT VK_ICD_FILENAMES=none.json)
  endif()
endfunction()

# nib_add_fuzzer(<name> [SOURCES <file>...] [LIBS <target>...])
# SOURCES default to fuzz_<name>.c. With NIB_FUZZ: the libFuzzer program fuzz_<name>. Without:
# the test fuzz_<name>, which runs the corpus tests/fuzz/corpus/<name> and its cut-off files.
function(nib_add_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS")
  if(NOT arg_SOURCES)
    set(arg_SOURCES fuzz_${name}.c)
  endif()
  set(target fuzz_${name})
  if(NIB_FUZZ)
    add_executable(${target} ${arg_SOURCES})
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    set_target_properties(${target} PROPERTIES
      RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/fuzz")
  else()
    add_executable(${target} ${arg_SOURCES} "${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.c")
    add_test(NAME ${target}
             COMMAND ${target} "${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name}")
    nib_set_test_properties(${target} 300 fuzz)
  endif()
  nib_set_up_test(${target})
  target_link_libraries(${target} PRIVATE ${arg_LIBS})
endfunction()
