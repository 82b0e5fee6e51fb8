// SPDX-License-Identifier: LGPL-2.1-or-later
// Into which kinds do neighbouring tokens fall? A visit of three variants at once makes 9 * 9 * 9 functions.
#include "text.hpp"

template <int Kind> struct Token {
    static constexpr int kind = Kind;
    std::string_view letters;
};
using Any = std::variant<Token<0>, Token<1>, Token<2>, Token<3>, Token<4>, Token<5>, Token<6>, Token<7>, Token<8>>;

static Any token(std::string_view letters) {
    auto const first = static_cast<unsigned char>(letters.front());
    bool const lone = letters.size() == 1;
    if (std::isupper(first))
        return lone ? Any(Token<0>{letters}) : Any(Token<1>{letters});
    if (std::islower(first))
        return lone ? Any(Token<2>{letters}) : Any(Token<3>{letters});
    if (std::isdigit(first))
        return lone ? Any(Token<4>{letters}) : Any(Token<5>{letters});
    if (std::ispunct(first))
        return lone ? Any(Token<6>{letters}) : Any(Token<7>{letters});
    return Token<8>{letters};
}

Counts kinds(std::string_view text) {
    Counts counts;
    std::deque<Any> last;
    for (auto const piece : text | std::views::split(' ')) {
        std::string_view const letters(piece.begin(), piece.end());
        if (letters.empty())
            continue;
        last.push_back(token(letters));
        if (last.size() < 3)
            continue;
        auto const name = std::visit(
            []<int A, int B, int C>(Token<A> const&, Token<B> const&, Token<C> const&) {
                return A == B && B == C ? "all alike" : A == B || B == C || A == C ? "two alike" : "all different";
            },
            last[0], last[1], last[2]);
        ++counts[name];
        last.pop_front();
    }
    return counts;
}
