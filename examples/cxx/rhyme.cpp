// SPDX-License-Identifier: LGPL-2.1-or-later
// The last word of each of the first four lines.
#include "text.hpp"

std::string rhyme(std::string_view text) {
    static std::regex const last("([[:alnum:]]+)[^[:alnum:]]*$");
    std::ostringstream verse;
    for (auto const piece : text | std::views::split('\n') | std::views::take(4)) {
        std::string const line(piece.begin(), piece.end());
        if (std::smatch match; std::regex_search(line, match, last))
            verse << std::quoted(match[1].str()) << ' ';
    }
    return verse.str();
}
