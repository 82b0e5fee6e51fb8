// SPDX-License-Identifier: LGPL-2.1-or-later
// By how much do two lines differ in length? Asked of a thousand random pairs.
#include "text.hpp"

double typical_gap(std::span<const std::size_t> lengths) {
    if (lengths.size() < 2)
        return 0;
    std::mt19937_64 generator(2010);
    std::uniform_int_distribution<std::size_t> any(0, lengths.size() - 1);
    std::vector<double> gaps(1000);
    std::ranges::generate(gaps, [&] {
        return std::abs(static_cast<double>(lengths[any(generator)]) - static_cast<double>(lengths[any(generator)]));
    });
    std::ranges::nth_element(gaps, gaps.begin() + 500);
    return gaps[500];
}
