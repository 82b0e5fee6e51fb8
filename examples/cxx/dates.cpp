// SPDX-License-Identifier: LGPL-2.1-or-later
// Which years, months and days does the text name, and do they exist?
#include "text.hpp"

std::vector<std::string> dates(std::string_view text) {
    static std::regex const date("([0-9]{4})-([0-9]{2})-([0-9]{2})");
    std::vector<std::string> found;
    using Matches = std::regex_iterator<std::string_view::const_iterator>;
    for (Matches match(text.begin(), text.end(), date), end; match != end; ++match) {
        using namespace std::chrono;
        auto const number = [&](int group) { return static_cast<unsigned>(std::stoul((*match)[group].str())); };
        year_month_day const day{year(static_cast<int>(number(1))), month(number(2)), std::chrono::day(number(3))};
        if (day.ok())
            found.push_back(match->str());
    }
    return found;
}
