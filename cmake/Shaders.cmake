# Shaders: every line of shaders/variants.txt becomes SPIR-V in an array of a generated C file.

# Finds the compiler and SPIRV-Tools. Sets NIB_SHADER_MISSING to those that are not there. What
# tools/setup put into the build folder compiles the shaders that the distribution's compiler may be
# too old for, and those alone, so that all others do not depend on it.
function(nib_find_shader_tools)
  find_program(NIB_GLSLANG NAMES glslangValidator glslang)
  find_program(NIB_SPIRV_OPT NAMES spirv-opt)
  find_program(NIB_SPIRV_VAL NAMES spirv-val)
  set(missing "")
  foreach(tool GLSLANG SPIRV_OPT SPIRV_VAL)
    if(NOT NIB_${tool})
      string(TOLOWER "${tool}" name)
      list(APPEND missing "${name}")
    endif()
  endforeach()
  set(NIB_SHADER_MISSING "${missing}" PARENT_SCOPE)
  set(folders "${CMAKE_BINARY_DIR}/glslang-13" "${CMAKE_BINARY_DIR}/../glslang-13")
  list(TRANSFORM folders APPEND "/cmeel.prefix/bin")
  find_program(NIB_NEW_GLSLANG NAMES glslangValidator PATHS ${folders} NO_DEFAULT_PATH)
  find_program(NIB_NEW_SPIRV_OPT NAMES spirv-opt PATHS ${folders} NO_DEFAULT_PATH)
  find_program(NIB_NEW_SPIRV_VAL NAMES spirv-val PATHS ${folders} NO_DEFAULT_PATH)
endfunction()

# nib_add_shaders(<out_sources>)
# Sets <out_sources> to the generated C files: one for each variant, and the table of all.
function(nib_add_shaders out_sources)
  set(folder "${PROJECT_SOURCE_DIR}/shaders")
  set(list_file "${folder}/variants.txt")
  set(script "${PROJECT_SOURCE_DIR}/tools/build/compile_shader.cmake")
  set(generated "${CMAKE_CURRENT_BINARY_DIR}/shaders")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${list_file}")
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${folder}/lib/*.glsl" "${folder}/shared/*.h")
  file(STRINGS "${list_file}" lines REGEX "^[a-z]")

  set(sources "")
  set(declarations "")
  set(entries "")
  foreach(line IN LISTS lines)
    separate_arguments(fields UNIX_COMMAND "${line}")
    list(POP_FRONT fields name source)
    set(optional OFF)
    set(new "")
    if(name MATCHES "\\?$")
      set(optional ON)
      if(NIB_NEW_GLSLANG AND NIB_NEW_SPIRV_OPT AND NIB_NEW_SPIRV_VAL)
        set(new NEW_)
      endif()
      string(REPLACE "?" "" name "${name}")
    endif()
    set(output "${generated}/${name}.c")
    list(JOIN fields " " macros)
    add_custom_command(
      OUTPUT "${output}"
      COMMAND "${CMAKE_COMMAND}" "-DNAME=${name}" "-DSOURCE=${folder}/${source}"
              "-DMACROS=${fields}" "-DOPTIONAL=${optional}" "-DOUTPUT=${output}"
              "-DGLSLANG=${NIB_${new}GLSLANG}" "-DSPIRV_OPT=${NIB_${new}SPIRV_OPT}"
              "-DSPIRV_VAL=${NIB_${new}SPIRV_VAL}" -P "${script}"
      DEPENDS "${folder}/${source}" ${headers} "${script}"
      COMMENT "Compiling shader ${name}"
      VERBATIM)
    list(APPEND sources "${output}")
    string(APPEND declarations
           "extern const uint32_t nib_spirv_${name}[];\n"
           "extern const size_t nib_spirv_size_${name};\n")
    string(APPEND entries
           "    {\"${name}\", nib_spirv_${name}, &nib_spirv_size_${name},\n"
           "     \"${source}\", \"${macros}\"},\n")
  endforeach()
  file(CONFIGURE OUTPUT "${generated}/shader_table.c" CONTENT
"#include \"runtime/vulkan/shaders.h\"

${declarations}
const struct nib_vk_shader nib_vk_shaders[] = {
${entries}};
const uint32_t nib_vk_shader_count = sizeof nib_vk_shaders / sizeof nib_vk_shaders[0];
" @ONLY)
  set(${out_sources} ${sources} "${generated}/shader_table.c" PARENT_SCOPE)
endfunction()
