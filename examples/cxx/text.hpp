// SPDX-License-Identifier: LGPL-2.1-or-later
// What the eight parts of `text` have in common, the whole standard library included.
#pragma once
#include <bits/stdc++.h>

using Counts = std::map<std::string, long>;

Counts words(std::string_view text);
std::vector<std::string> dates(std::string_view text);
std::vector<std::size_t> line_lengths(std::string_view text);
Counts kinds(std::string_view text);
double typical_gap(std::span<const std::size_t> lengths);
long vowels(std::string_view text);
std::string rhyme(std::string_view text);
