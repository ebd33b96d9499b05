# The libraries that Nibble uses, as the imported targets PkgConfig::PCRE2, PkgConfig::UTF8PROC,
# PkgConfig::JANSSON and, where found, PkgConfig::LIBEDIT (the program) and PkgConfig::CRITERION
# (the tests). NIB_MATH_LIBRARY is the mathematics library, empty where libc holds it.

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

set(NIB_MATH_LIBRARY "")
if(UNIX AND NOT APPLE)
  set(NIB_MATH_LIBRARY m)
endif()

# An archive needs headers alone, and those of these three libraries do not depend on the machine
# that they are compiled for. They are copied since the folder they come from holds its libc, too.
function(nib_host_headers target)
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/host-include")
  foreach(header IN LISTS ARGN)
    file(GLOB found /usr/include/${header} /usr/include/*-linux-gnu/${header}
         /usr/local/include/${header})
    if(NOT found)
      message(FATAL_ERROR "nibble: ${header} not found on this machine; run tools/setup")
    endif()
    list(GET found 0 found)
    file(COPY "${found}" DESTINATION "${folder}")
  endforeach()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE "${folder}")
endfunction()

if(NIB_HOST_HEADERS)
  nib_host_headers(PkgConfig::PCRE2 pcre2.h)
  nib_host_headers(PkgConfig::UTF8PROC utf8proc.h)
  nib_host_headers(PkgConfig::JANSSON jansson.h jansson_config.h)
  target_compile_definitions(PkgConfig::PCRE2 INTERFACE PCRE2_STATIC)
  target_compile_definitions(PkgConfig::UTF8PROC INTERFACE UTF8PROC_STATIC)
else()
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET GLOBAL libpcre2-8)
  pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET GLOBAL libutf8proc)
  pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET GLOBAL jansson)
  if(NIB_TOOLS)
    pkg_check_modules(LIBEDIT IMPORTED_TARGET GLOBAL libedit)
  endif()
  if(NIB_TESTS)
    pkg_check_modules(CRITERION IMPORTED_TARGET GLOBAL criterion)
  endif()
endif()

# The compiler of shaders, for a library that compiles them itself; Debian: glslang-dev and
# spirv-tools.
if(NIB_VULKAN AND NIB_RUNTIME_COMPILE)
  find_package(SPIRV-Tools-opt CONFIG REQUIRED)
  find_package(glslang CONFIG REQUIRED)
endif()
