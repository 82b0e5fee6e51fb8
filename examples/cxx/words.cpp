// SPDX-License-Identifier: LGPL-2.1-or-later
// How often does each word occur?
#include "text.hpp"

Counts words(std::string_view text) {
    static std::regex const word("[[:alpha:]]+");
    Counts counts;
    using Matches = std::regex_iterator<std::string_view::const_iterator>;
    for (Matches match(text.begin(), text.end(), word), end; match != end; ++match)
        ++counts[match->str()];
    return counts;
}
