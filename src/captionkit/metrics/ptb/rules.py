"""The rules of Penn Treebank tokenisation of CoreNLP 3.4.1, in the notation of regex.py.

The facts (what makes a word, which abbreviations there are, which rule precedes which) are those of the class PTBLexer
in that release's jar, with its options at their defaults: "cannot", "gonna" and "'tis" are split; quotes, dashes,
ellipses, brackets, currencies and fractions are written in ASCII; British spellings stay; / and * are not escaped;
unknown characters are dropped. The automaton of these rules was compared with the one in the jar, state by state: they
accept the same texts for the same kinds of tokens.

Omitted is what is invisible once punctuation is dropped: the original adds a period after "Inc." or "U.S." before a
sentence, and distinguishes opening from closing double quotes.
"""

from __future__ import annotations

from captionkit.metrics.ptb.characters import DIGITS, LETTERS, MARKS, SYMBOLS, Ranges
from captionkit.metrics.ptb.dfa import Rule
from captionkit.metrics.ptb.normalize import (
    ampersand,
    bracket,
    currency,
    dashes,
    face,
    fraction,
    instead,
    joined,
    nothing,
    phone,
    quotes,
    unhyphenated,
)

_MONTHS = "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
_DAYS = "mon|tues?|wed|thu|thurs|fri"
_STATES = (  # some only capitalised, since they are also words
    "ala|ariz|[A]z|[A]rk|calif|colo|conn|ct|dak|[D]el|fla|ga|[I]ll|ind|kans?|ky|[L]a|[M]ass|md|mich|minn|[M]iss|mo|mont|"
    "neb|nev|okla|[O]re|[P]a|penn|tenn|[T]ex|va|vt|[W]ash|wisc?|wyo"
)
_COMPANIES = "inc|cos?|corp|pp?t[ye]s?|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys"
_AFTER_NAMES = r"jr|sr|bros|(ed|ph)\.d|blvd|rd|esq"
_TITLES = (
    "mrs?|ms|[M]iss|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|"
    "lieut|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc"
)
_BEFORE_NAMES = r"vs|[v]|alex|wm|jos|cie|a\.k\.a|cf|treas|ph|invt|elec|natl|m[ft]g|dept"
_HYPHENATED_ACRONYMS = r"(canada|sino|korean|eu|japan|non)-u\.s|u\.s\.-(u\.k|u\.s\.s\.r)"
_SENTENCE_STARTS = (  # in exactly this case
    "[A]|[A]bout|[A]ccording|[A]dditionally|[A]fter|[A]n|[A]s|[A]t|[B]ut|[E]arlier|[H]e|[H]er|[H]ere|[H]owever|[I]f|[I]n|"
    r"[I]t|[L]ast|[M]any|[M]ore|[M]r\.|[M]s\.|[N]ow|[O]nce|[O]ne|[O]ther|[O]ur|[S]he|[S]ince|[S]o|[S]ome|[S]uch|[T]hat|"
    "[T]he|[T]heir|[T]hen|[T]here|[T]hese|[T]hey|[T]his|[W]e|[W]hen|[W]hile|[W]hat|[Y]et|[Y]ou"
)
_EXTENSIONS = (
    "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|"
    "x|xml|zip"
)
_APOSTROPHE_WORDS = (
    "{apostrophe}n{apostrophe}?|[lLdDjJ]{apostrophe}|(dunkin|somethin|ol){apostrophe}|{apostrophe}(em|till?|cause|[2-9]0s)|"
    "[A-HJ-XZn]{accent}{letter}{letter}+|{letter}+[aeiouyAEIOUY]{accent}[aeiouA-Z]{letter}*|o{accent}o|"
    r"cont'd\.?|'twas|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l"
)
# A character that closes brackets or quotes, or ends a sentence, also ends an address.
_NO_ADDRESS = r""" \t\n\f\r"<>|"""
_NO_END = rf"{_NO_ADDRESS}.!?(){{}},\-"

#: patterns and characters by name
NAMED: dict[str, str | Ranges] = {
    "letter": LETTERS,
    "digit": DIGITS,
    "mark": MARKS,
    "symbol": SYMBOLS,
    "space": r"[ \t\u00a0\u2000-\u200a\u3000]",
    "newline": r"(\r|\r?\n|[\u000b\f\u0085\u2028\u2029])",
    "blank": "({space}|{newline})",
    "tag": r"<([!?][A-Za-z\-][^>\r\n]*|{name}( +{name}( *= *('[^']*'|\"[^\"]*\"))?)* */?|/{name}) *>",
    "name": r"[A-Za-z][A-Za-z0-9_:.\-]*",
    # Words
    "wordletter": "({letter}|{mark}|&[aeiouAEIOU](acute|grave|uml);)",
    "wordpart": "{wordletter}({wordletter}|{digit})*",
    "word": r"{wordpart}([.!?]{wordpart})*",
    "alnum": "({letter}|{digit})",
    "apostrophe": r"(['\u0092\u2019]|&apos;)",
    "accent": r"({apostrophe}|[`\u0091\u2018\u201b])",  # accepted as an apostrophe inside a word
    "clitic": "{apostrophe}([msdMSD]|re|ve|ll)",
    "negation": "n{accent}t",
    "negated": r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*",
    "part": "([dDoOlL]{accent}{alnum})?{alnum}+",  # d'artagnan
    "compound": r"{part}([\-_\u058a\u2010\u2011]{part})*",
    "hyphenated": r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(-([A-Za-z0-9\u00ad]+|{acronym}\.))+",
    "either": r"[A-Za-z0-9]+(-[A-Za-z]+){0,2}(\\?/[A-Za-z0-9]+(-[A-Za-z]+){0,2}){1,2}",  # and/or
    "initials": "[A-Z]+(([+&]|&amp;)[A-Z]+)+",  # AT&T
    "filename": rf"({{wordletter}}|{{digit}})+(\.({{wordletter}}|{{digit}})+)*\.({_EXTENSIONS})",
    # Abbreviations
    "acronym": rf"([A-Za-z](\.[A-Za-z])+|{_HYPHENATED_ACRONYMS})",
    "acronyms": rf"([A-Za-z](\.[A-Za-z])*|{_HYPHENATED_ACRONYMS})",
    "sentencefinal": rf"({_MONTHS}|{_DAYS}|{_STATES}|{_COMPANIES}|tel|est|ext|sq|{_AFTER_NAMES}|etc|al|seq|bldg)\.",
    "internal": rf"({_TITLES}|{_BEFORE_NAMES}|{{acronyms}})",
    "beforenumbers": r"(ca|figs?|prop|nos?|art|bldg|pp|op)\.",
    # Numbers
    "number": r"[\-+]?({digit}+|{digit}*([.:,\u00ad\u066b\u066c]{digit}+)+)",
    "date": r"{digit}{1,2}[\-/]{digit}{1,2}[\-/]{digit}{2,4}",
    "fraction": r"({digit}{1,4}[\- \u00a0])?{digit}{1,4}(\\?/|\u2044){digit}{1,4}",
    "raised": r"[\u207a\u207b\u208a\u208b]?([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)",
    "gap": r"[\- \u00a0]",
    "phone": (
        r"(\([0-9]{2,3}\)[ \u00a0]?|(\+\+?)?([0-9]{2,4}{gap})?[0-9]{2,4}{gap})[0-9]{3,4}{gap}?[0-9]{3,5}|"
        r"((\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
    ),
    # Addresses. In the host, "-" before "_" is a range: neither digits nor capitals are allowed there.
    "url": rf"https?://[^{_NO_ADDRESS}(){{}}]+[^{_NO_END}]",
    "host": (
        rf"(www\.([^{_NO_ADDRESS}.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}|"
        rf"([^{_NO_ADDRESS}`'.!?(){{}},-_$]+\.)+(com|net|org|edu))"
    ),
    "path": rf"/[^{_NO_ADDRESS}()]+[^{_NO_END}]",
    "mailpart": rf"[^{_NO_ADDRESS}(){{}}\u00a0]",
    "email": (
        r"(&lt;|<)?[a-zA-Z0-9]{mailpart}*@"
        rf"([^{_NO_ADDRESS}(){{}}.\u00a0]+\.)*[^{_NO_ADDRESS}(){{}}.\u00a0]+(&gt;|>)?"
    ),
    # Faces and quotes
    "face": r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]",
    "asianface": (
        r"[\^x=~<>]\.\[\^x=[^<]*<>\]|[\-\^x=~<>']_[\-\^x=~<>']|"
        r"\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)"
    ),
    "quote": r"{apostrophe}|''|[`\u0091-\u0094\u2018-\u201f\u2039\u203a\u00ab\u00bb]{1,2}",
}

#: in order of precedence among matches of the same length
RULES = (
    Rule(r"c\+\+|[cCfF]#"),
    # Words that are split in two
    Rule("can", before="not"),
    Rule("'t", before="is|was"),
    Rule("gon|wan", before="na"),
    Rule("got", before="ta"),
    Rule("gim|lem", before="me"),
    # Markup
    Rule("{tag}", write=joined),
    Rule(r"&(md|mdash|ndash);|[\u0096\u0097\u2013-\u2015]", write=instead("--")),
    Rule("&amp;", write=ampersand),
    Rule("&(ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);"),
    # Words
    Rule("{word}", before="{clitic}", write=unhyphenated),
    Rule("{negated}", before="{negation}", write=unhyphenated),
    Rule("{word}", write=unhyphenated),
    Rule(_APOSTROPHE_WORDS),
    Rule("y{apostrophe}", before="{letter}"),
    # Addresses
    Rule("{url}"),
    Rule("{host}({path})?"),
    Rule("{email}"),
    Rule("@[a-zA-Z_][a-zA-Z_0-9]*|#{wordletter}+"),
    # Clitics that follow something other than a word
    Rule("{clitic}|{negation}", before="[^A-Za-z]", write=quotes),
    # Numbers
    Rule("{date}"),
    Rule("{number}", write=unhyphenated),
    Rule("{raised}"),
    Rule("{fraction}", write=joined),
    Rule(r"[\u00bc-\u00be\u2153-\u215e]", write=fraction),
    Rule(
        r"-(l|r)(r|c|s)b-|c\.d\.s|pro-|anti-|s(&|&amp;)p-500|s(&|&amp;)ls|cap{apostrophe}n|c{apostrophe}est",
        write=ampersand,
    ),
    Rule("{either}"),
    Rule(r"[A-Z]*\$|#"),
    Rule(
        r"[\u0080\u00a2-\u00a5\u060b\u0e3f\u20a0\u20a4\u20ac\uffe0\uffe1\uffe5\uffe6]",
        write=currency,
    ),
    # Abbreviations
    Rule(r"[A-Za-z]", before=rf"\.{{blank}}+({_SENTENCE_STARTS}|{{tag}}){{blank}}"),  # "plan b. The"
    Rule("{beforenumbers}", before="{blank}?{digit}"),
    Rule(r"(pt[eyEY]|co)\.", before="{space}(ltd|lim)"),
    Rule("{sentencefinal}", before="[^][^]"),
    Rule("{sentencefinal}"),
    Rule(r"{internal}\."),
    Rule("{acronyms}", before="{blank}"),
    Rule("{apostrophe}[0-9][0-9]", before="{blank}"),
    Rule("{filename}", before="{blank}|[.?!,]"),
    Rule(r"{word}\.", before=r"[,;:\u3001]", write=unhyphenated),
    Rule("{phone}", write=phone),
    # Punctuation
    Rule('"|&quot;', write=quotes),
    Rule("{face}", before="[^A-Za-z0-9]", write=face),
    Rule("{asianface}", write=face),
    Rule("<|&lt;", write=instead("<")),
    Rule(">|&gt;", write=instead(">")),
    Rule("[(){}[\\]]", write=bracket),
    Rule("-+", write=dashes),
    Rule(r"\.{3,5}|(\.[ \u00a0]){2,4}\.|[\u0085\u2026]", write=instead("...")),
    Rule(r"@+|#+|_+|\*+|(\\\*){1,3}|[,;:\u3001]|[?!]+|=|/"),
    Rule(r"{hyphenated}\.", before=r"[,;:\u3001]", write=unhyphenated),
    Rule("{hyphenated}", write=unhyphenated),
    Rule(r"{compound}\.", before=r"[,;:\u3001]"),
    Rule("{compound}"),
    Rule(r"{initials}\.", before=r"[,;:\u3001]", write=ampersand),
    Rule("{initials}", write=ampersand),
    Rule("'", before=r"[A-Za-z][^ \t\n\r\u00a0]", write=quotes),
    Rule("{clitic}|{negation}|{quote}", write=quotes),
    Rule(r"<<|>>|\.|{symbol}"),
    # Text that gives no token
    Rule(r"{space}+|{newline}|&nbsp;|[\u0000\u007f\u200b\u200e\u200f\ufeff]", write=nothing),
    Rule(".", write=nothing),
)
