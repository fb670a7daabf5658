# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# cmake -P download_fashion_mnist.cmake FOLDER: fetches what FOLDER lacks of Fashion-MNIST.
# Without a network it says so and succeeds: the trainer then generates its data.

set(base http://fashion-mnist.s3-website.eu-central-1.amazonaws.com)
set(files train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz
          t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz)
set(checksums 8d4fb7e6c68d591d4c3dfef9ec88bf0d 25c81989df183df01b3e8a0aad5dffbe
              bef4ecab320f06d8554ea6380940ec79 bb300cfdad3c16e7a12a480ee83cd310)
set(folder ${CMAKE_ARGV3})

# Whether `path` is a file with this MD5 checksum.
function(is_intact path checksum result)
  set(actual "")
  if(EXISTS ${path})
    file(MD5 ${path} actual)
  endif()
  string(COMPARE EQUAL "${actual}" ${checksum} intact)
  set(${result} ${intact} PARENT_SCOPE)
endfunction()

foreach(there $ENV{ACTPACK_DATA_DIR}/fashion-mnist $ENV{ACTPACK_DATA_DIR})
  if(EXISTS ${there}/train-images-idx3-ubyte.gz)
    message("Fashion-MNIST: using ${there}")
    return()
  endif()
endforeach()

# EXPECTED_MD5 would make a missing network fatal, so the checksum is compared here; a file gets its
# name only when it is whole.
foreach(file checksum IN ZIP_LISTS files checksums)
  is_intact(${folder}/${file} ${checksum} intact)
  if(intact)
    continue()
  endif()
  file(DOWNLOAD ${base}/${file} ${folder}/partial STATUS status INACTIVITY_TIMEOUT 30)
  is_intact(${folder}/partial ${checksum} intact)
  if(NOT intact)
    file(REMOVE ${folder}/partial)
    list(GET status 1 error)
    message("Fashion-MNIST: could not download ${file} (${error}), or it is another file")
    return()
  endif()
  file(RENAME ${folder}/partial ${folder}/${file})
endforeach()
message("Fashion-MNIST: in ${folder}")
