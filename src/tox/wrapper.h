#include <tox/tox.h>
#include <tox/toxencryptsave.h>
