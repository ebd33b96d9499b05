# Install rules, the pkg-config file and the CMake package.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

if(NOT TARGET nib_static)
  return()
endif()

install(DIRECTORY include/nibble DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING
        PATTERN "*.h")
set(nib_installed nib_static)
if(TARGET nib_shared)
  list(APPEND nib_installed nib_shared)
endif()
install(TARGETS ${nib_installed} EXPORT nibbleTargets)
if(TARGET nibble_program)
  install(TARGETS nibble_program)
endif()
install(EXPORT nibbleTargets NAMESPACE nibble:: DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/nibble")

configure_package_config_file(cmake/nibbleConfig.cmake.in nibbleConfig.cmake
  INSTALL_DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/nibble")
write_basic_package_version_file(nibbleConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/nibbleConfig.cmake"
              "${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake"
        DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/nibble")

# Relative to the file, so that a tree can be installed into any folder.
file(RELATIVE_PATH NIB_PC_PREFIX "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" /prefix)
configure_file(cmake/nibble.pc.in nibble.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/nibble.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
