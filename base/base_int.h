/*
 * The 128-bit product, which ISO C lacks and both compilers have.
 */
#ifndef BASE_INT_H
#define BASE_INT_H

__extension__ typedef unsigned __int128 base_u128;

#endif
