// SPDX-License-Identifier: LGPL-2.1-or-later
// How many vowels are there? Each quarter of the text is counted by a thread of its own.
#include "text.hpp"

long vowels(std::string_view text) {
    auto const count = [](std::string_view part) {
        return std::ranges::count_if(part, [](char letter) { return std::string_view("aeiouAEIOU").find(letter) != std::string_view::npos; });
    };
    std::vector<std::future<std::ptrdiff_t>> parts;
    for (std::size_t const step = text.size() / 4 + 1; !text.empty(); text.remove_prefix(std::min(step, text.size())))
        parts.push_back(std::async(std::launch::async, count, text.substr(0, step)));
    return std::accumulate(parts.begin(), parts.end(), 0L, [](long sum, auto& part) { return sum + part.get(); });
}
