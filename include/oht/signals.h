// Stop requests: SIGUSR1, SIGTERM, SIGINT and SIGHUP only set a flag. Every loop that can last polls it, and ranks
// agree on it before anyone leaves (OHT_STOPPED). Local.
#pragma once

#include <stdbool.h>

#include "oht/status.h"

void oht_signals_install(void);
bool oht_signals_stop_asked(void);
// OHT_STOPPED when a stop was asked for, to be agreed on. The text is main's or the trainer's business.
OHT_CHECKED oht_status oht_signals_check(void);
