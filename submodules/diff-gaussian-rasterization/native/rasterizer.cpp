// SPDX-License-Identifier: Apache-2.0
#include "cpu_level.h"
#include "thread_pool.h"
