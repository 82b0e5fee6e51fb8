// SPDX-License-Identifier: LGPL-2.1-or-later
// How long are the lines that say something?
#include "text.hpp"

std::vector<std::size_t> line_lengths(std::string_view text) {
    auto const blank = [](char letter) { return std::isspace(static_cast<unsigned char>(letter)) != 0; };
    std::vector<std::size_t> lengths;
    for (auto const line : text | std::views::split('\n')) {
        auto inner = line | std::views::drop_while(blank) | std::views::reverse | std::views::drop_while(blank);
        if (auto const length = std::ranges::distance(inner); length > 0)
            lengths.push_back(static_cast<std::size_t>(length));
    }
    return lengths;
}
