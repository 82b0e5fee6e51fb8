// SPDX-License-Identifier: LGPL-2.1-or-later
// text FILE: a few numbers about a text. Its parts are written for their headers: 250-510 MB of compiler each.
#include "text.hpp"

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: text FILE\n";
        return 2;
    }
    std::filesystem::path const path = argv[1];
    std::ifstream file(path);
    std::string const text{std::istreambuf_iterator<char>(file), {}};
    auto const lengths = line_lengths(text);
    std::cout << path.filename() << ": " << text.size() << " bytes, " << lengths.size() << " lines, "
              << words(text).size() << " different words, " << dates(text).size() << " dates, " << vowels(text)
              << " vowels; lines differ by " << typical_gap(lengths) << "; last words: " << rhyme(text) << '\n';
    for (auto const& [kind, count] : kinds(text))
        std::cout << "  " << kind << ": " << count << '\n';
}
