# Nibble's targets.
#
#   nib_options      INTERFACE  include folders, language, warnings, sanitizers, for all targets
#   nib_<layer>_obj  OBJECT     one layer's objects
#   nib_<layer>      STATIC     the same as an archive with the layers below it, for unit tests
#   nib_static, nib_shared      libnibble, exported as nibble::nibble_static and nibble::nibble
#
# Everything is set on targets, so that a parent project's flags stay as they are.

add_library(nib_options INTERFACE)
target_include_directories(nib_options INTERFACE "${PROJECT_SOURCE_DIR}"
                                                 "${PROJECT_SOURCE_DIR}/include")
target_compile_features(nib_options INTERFACE c_std_11)

set(NIB_GNU_LIKE OFF)
if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang" AND NOT MSVC)
  set(NIB_GNU_LIKE ON)
endif()

if(NIB_GNU_LIKE)
  target_compile_options(nib_options INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wvla
    $<$<BOOL:${NIB_WERROR}>:-Werror>)
elseif(MSVC)
  target_compile_options(nib_options INTERFACE /W3 /utf-8 $<$<BOOL:${NIB_WERROR}>:/WX>)
  target_compile_definitions(nib_options INTERFACE _CRT_SECURE_NO_WARNINGS)
endif()

if(NIB_FUZZ)
  if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "nibble: NIB_FUZZ needs clang (configure with -DCMAKE_C_COMPILER=clang)")
  endif()
  if(NOT NIB_SANITIZE)
    set(NIB_SANITIZE "address,undefined")
  endif()
  target_compile_options(nib_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(NIB_SANITIZE)
  target_compile_options(nib_options INTERFACE -fsanitize=${NIB_SANITIZE} -g
                                               -fno-omit-frame-pointer)
  target_link_options(nib_options INTERFACE -fsanitize=${NIB_SANITIZE})
  if(NIB_SANITIZE MATCHES "undefined")
    target_compile_options(nib_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()

# Sets what every own target has, a test's as a library's.
function(nib_set_up target)
  target_link_libraries(${target} PRIVATE nib_options)
  set_target_properties(${target} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
endfunction()

# nib_add_layer(<layer> SOURCES <file>... [DEPENDS <layer>...] [LIBS <target>...])
# Sources are relative to the calling folder. DEPENDS names lower layers.
function(nib_add_layer layer)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPENDS;LIBS")
  if(NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "nib_add_layer(${layer}): SOURCES missing, or '${arg_UNPARSED_ARGUMENTS}'")
  endif()

  set(objects nib_${layer}_obj)
  add_library(${objects} OBJECT ${arg_SOURCES})
  nib_set_up(${objects})
  target_link_libraries(${objects} PRIVATE Threads::Threads ${arg_LIBS})
  set_target_properties(${objects} PROPERTIES POSITION_INDEPENDENT_CODE ON
                                              C_VISIBILITY_PRESET hidden)
  target_compile_definitions(${objects} PRIVATE
    NIB_BUILD $<$<BOOL:${NIB_SHARED}>:NIB_SHARED>
    $<$<BOOL:${NIB_HAVE_VULKAN}>:NIB_HAVE_VULKAN> $<$<BOOL:${NIB_SIMD}>:NIB_SIMD>)
  if(NIB_GNU_LIKE)
    # The scalar backend is a specification: its results must not vary with the compiler.
    target_compile_options(${objects} PRIVATE
      -ffp-contract=off -fno-math-errno $<$<NOT:$<CONFIG:Debug,MinSizeRel>>:-O3>)
  elseif(MSVC)
    target_compile_options(${objects} PRIVATE /fp:precise)
  endif()

  add_library(nib_${layer} STATIC EXCLUDE_FROM_ALL $<TARGET_OBJECTS:${objects}>)
  set_target_properties(nib_${layer} PROPERTIES LINKER_LANGUAGE C OUTPUT_NAME nib_${layer}_test)
  target_link_libraries(nib_${layer} PUBLIC Threads::Threads ${NIB_MATH_LIBRARY} ${arg_LIBS})
  foreach(lower IN LISTS arg_DEPENDS)
    if(TARGET nib_${lower})
      target_link_libraries(nib_${layer} PUBLIC nib_${lower})
    else()
      message(STATUS "nibble: ${layer} depends on ${lower}, which is not in this tree")
    endif()
  endforeach()
  set_property(GLOBAL APPEND PROPERTY NIB_LAYERS ${layer})
  set_property(GLOBAL APPEND PROPERTY NIB_LIBS ${arg_LIBS})
endfunction()

# The archive is one relocatable object whose hidden symbols are local, so that nothing but nib_
# can meet a host's own symbols. Formats without such symbols get a plain archive.
function(nib_combine_objects out_sources)
  set(combined "${PROJECT_BINARY_DIR}/nibble_combined.o")
  set(objects ${ARGN})
  if(CMAKE_EXECUTABLE_FORMAT STREQUAL "ELF" AND CMAKE_OBJCOPY AND NIB_GNU_LIKE
     AND NOT CMAKE_INTERPROCEDURAL_OPTIMIZATION)
    add_custom_command(
      OUTPUT "${combined}"
      COMMAND "${CMAKE_LINKER}" -r -o "${combined}" ${objects}
      COMMAND "${CMAKE_OBJCOPY}" --localize-hidden "${combined}"
      DEPENDS ${objects}
      COMMAND_EXPAND_LISTS VERBATIM
      COMMENT "Combining the objects of libnibble.a")
    set_source_files_properties("${combined}" PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    set(${out_sources} "${combined}" PARENT_SCOPE)
  else()
    set(${out_sources} ${objects} PARENT_SCOPE)
  endif()
endfunction()

# Makes libnibble of all layers added so far.
function(nib_add_libraries)
  get_property(layers GLOBAL PROPERTY NIB_LAYERS)
  get_property(libs GLOBAL PROPERTY NIB_LIBS)
  if(NOT layers)
    message(STATUS "nibble: this tree has no layer yet, so there is no library")
    return()
  endif()
  list(REMOVE_DUPLICATES libs)
  list(TRANSFORM layers REPLACE "(.+)" "$<TARGET_OBJECTS:nib_\\1_obj>" OUTPUT_VARIABLE objects)

  nib_combine_objects(static_sources ${objects})
  add_library(nib_static STATIC ${static_sources})
  set(libraries nib_static)
  add_library(nibble::nibble_static ALIAS nib_static)
  if(NIB_SHARED)
    add_library(nib_shared SHARED ${objects})
    add_library(nibble::nibble ALIAS nib_shared)
    list(APPEND libraries nib_shared)
    if(CMAKE_EXECUTABLE_FORMAT STREQUAL "ELF")
      target_link_options(nib_shared PRIVATE LINKER:--exclude-libs,ALL)
      if(NOT NIB_SANITIZE) # whose symbols the program brings
        target_link_options(nib_shared PRIVATE LINKER:-z,defs)
      endif()
    endif()
    target_compile_definitions(nib_shared INTERFACE NIB_SHARED)
    target_link_libraries(nib_shared PRIVATE $<BUILD_INTERFACE:nib_options>)
    set_target_properties(nib_shared PROPERTIES
      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} EXPORT_NAME nibble)
  else()
    add_library(nibble::nibble ALIAS nib_static)
  endif()

  foreach(library IN LISTS libraries)
    set_target_properties(${library} PROPERTIES LINKER_LANGUAGE C OUTPUT_NAME nibble)
    target_include_directories(${library} INTERFACE
      "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" $<INSTALL_INTERFACE:include>)
    target_link_libraries(${library} PRIVATE Threads::Threads ${NIB_MATH_LIBRARY} ${libs})
  endforeach()
  set_target_properties(nib_static PROPERTIES EXPORT_NAME nibble_static)
endfunction()

# nib_add_program(<name> SOURCES <file>... [LIBS <target>...])
# A program at BUILD_DIR/<name> that sees include/ and the static library alone.
function(nib_add_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS")
  if(NOT TARGET nib_static)
    message(STATUS "nibble: no library yet, so program ${name} is left out")
    return()
  endif()
  add_executable(${name}_program ${arg_SOURCES})
  nib_set_up(${name}_program)
  target_link_libraries(${name}_program PRIVATE nib_static ${arg_LIBS})
  set_target_properties(${name}_program PROPERTIES
    OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}")
endfunction()
