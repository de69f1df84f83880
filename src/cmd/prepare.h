// Kinds of data that `ohtrain prepare` knows beside text. argv[1] is the kind. Collective.
#pragma once

#include "oht/dist.h"
#include "oht/status.h"

OHT_CHECKED oht_status oht_cmd_prepare_images(oht_comm *comm, int argc, char **argv);
OHT_CHECKED oht_status oht_cmd_prepare_series(oht_comm *comm, int argc, char **argv);
