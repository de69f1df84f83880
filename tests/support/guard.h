// A device whose memory the host cannot touch: the CPU's kernels, but its memory can be read and written only while one
// of its entries runs (mprotect), holds NaN bytes when it is new, and never lies where other memory of the program does.
// What treats device memory as host memory ends with a fault; a host pointer where device memory belongs ends with a
// message. A test that is linked with -Wl,--wrap=oht_backend_create gives
// its sessions such devices.
#pragma once

#include "oht/backend.h"
#include "oht/dist.h"

OHT_CHECKED oht_status guard_create(oht_backend **out);
// Devices created from here on have collectives, between the ranks of `comm`; NULL: none.
void guard_link(oht_comm *comm);
long guard_collectives(void); // that this process has carried out
