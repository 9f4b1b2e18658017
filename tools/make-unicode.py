#!/usr/bin/env python3
"""Writes model/model_unicode_table.h: which code points are letters, numbers, white space and punctuation.

    python3 tools/make-unicode.py > model/model_unicode_table.h

The categories come from the module unicodedata2 16.0.0 (pip install unicodedata2==16.0.0), because 16.0 is the version
of Unicode that the regular expressions of the tokenizers in use were built with. The result is checked in; nothing runs
this during a build.
"""
import sys

import unicodedata2 as data

VERSION = "16.0.0"
CLASSES = ["OTHER", "LETTER", "NUMBER", "SPACE", "PUNCTUATION"]  # the order of enum model_unicode_class
# The property White_Space, which is what \s means to the tokenizers; the general categories do not tell it.
SPACES = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
END = 0x110000


def class_of(code):
    if code in SPACES:
        return "SPACE"
    return {"L": "LETTER", "N": "NUMBER", "P": "PUNCTUATION"}.get(data.category(chr(code))[0], "OTHER")


def rows(values, per_row, form):
    for i in range(0, len(values), per_row):
        yield "\t" + ", ".join(form % v for v in values[i : i + per_row]) + ","


def main():
    if data.unidata_version != VERSION:
        return f"unicodedata2 has Unicode {data.unidata_version}, not {VERSION}"
    classes = [CLASSES.index(class_of(code)) for code in range(END)]
    ranges = [code << 3 | classes[code] for code in range(END) if code == 0 or classes[code] != classes[code - 1]]
    print(f"""/*
 * Classes of code points, Unicode {data.unidata_version}. Made by tools/make-unicode.py; not written by hand.
 */
#ifndef MODEL_UNICODE_TABLE_H
#define MODEL_UNICODE_TABLE_H

#include <stdint.h>

/* Where each class begins: first code point << 3 | class; it holds up to the next entry. */
static const uint32_t UNICODE_RANGES[{len(ranges)}] = {{""")
    print("\n".join(rows(ranges, 10, "0x%x")))
    print("""};

/* The same for ASCII, read directly. */
static const uint8_t UNICODE_ASCII[128] = {""")
    print("\n".join(rows(classes[:128], 32, "%d")))
    print("};\n\n#endif")


if __name__ == "__main__":
    sys.exit(main())
