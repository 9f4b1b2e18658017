/*
 * The recorded 192-core machine of the optional data, made readable: it is in a newer hwloc's
 * format, of which ours refuses only the version number.
 */
#ifndef RECORDED_MACHINE_H
#define RECORDED_MACHINE_H

/* Writes a copy to a temporary file and its name to path (at least 32 bytes); the caller unlinks
 * it. 0, or -1 when the data is not there (said so). */
int recorded_machine(char *path);

#endif
