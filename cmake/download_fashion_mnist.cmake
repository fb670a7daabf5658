# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# cmake -P download_fashion_mnist.cmake FOLDER: fetches what FOLDER lacks of Fashion-MNIST.
# Without a network it says so and succeeds: the trainer then generates its data.

set(base https://fashion-mnist.s3.eu-central-1.amazonaws.com)
set(files train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz
          t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz)
set(checksums
  3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
  a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
  346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
  67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5)
set(folder ${CMAKE_ARGV3})

# Whether `path` is a file with this SHA-256 checksum.
function(is_intact path checksum result)
  set(actual "")
  if(EXISTS ${path})
    file(SHA256 ${path} actual)
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

# EXPECTED_HASH would make a missing network fatal, so the checksum is compared here; a file gets
# its name only when it is whole.
foreach(file checksum IN ZIP_LISTS files checksums)
  is_intact(${folder}/${file} ${checksum} intact)
  if(intact)
    continue()
  endif()
  file(DOWNLOAD ${base}/${file} ${folder}/partial STATUS status
       INACTIVITY_TIMEOUT 30 TLS_VERIFY ON)
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
