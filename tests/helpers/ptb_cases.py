"""Captions for the tests of the Penn Treebank tokenizer: fixed ones with their tokens, and nasty ones by number."""

from __future__ import annotations

import random
import re

# Captions and the tokens that pycocoevalcap's PTBTokenizer gave for them, each between lines of its own.
CASES = [
    ("A man's dog can't run.", "a man 's dog ca n't run"),
    ("She doesn't know; they'll see, he'd've gone.", "she does n't know they 'll see he 'd 've gone"),
    ("You cannot and I CANNOT.", "you can not and i can not"),
    ("I'm gonna, gotta, wanna, gimme, lemme go.", "i 'm gon na got ta wan na gim me lem me go"),
    ("gonna's and gonnas", "gonna 's and gonnas"),
    ("'Tis the season, 'twas the night.", "'t is the season 't was the night"),
    ("It's the dogs' food and the boys’ ball.", "it 's the dogs food and the boys ball"),
    ("Don’t touch the cat’s tail, n’t", "do n't touch the cat 's tail n't"),
    ("She won`t eat it.", "she wo n`t eat it"),
    ("n't 's 're", "n't 's 're"),
    ("y'all know y'know", "y' all know y' know"),
    ("rock 'n' roll and rock'n'roll", "rock 'n' roll and rock 'n' roll"),
    ("An o'clock sign by O'Brien and d'Artagnan", "an o'clock sign by o'brien and d'artagnan"),
    ("Ma'am, the li'l nor'easter c'mon cont'd.", "ma'am the li'l nor'easter c'mon cont'd."),
    ("Give 'em hell 'till the '90s", "give 'em hell 'till the '90s"),
    ("class of '99", "class of '99"),
    ("class of '99.", "class of 99"),
    ("a 1990s car, the 90's", "a 1990s car the 90 's"),
    ("They said 'hello there' to 'a' man", "they said hello there to a man"),
    ("He said \"stop\" and ''go'' and ``wait''", "he said stop and go and wait"),
    ("‘single’ “double” «guillemets» ‹one› „low‟", "single double guillemets one „ low ‟"),
    ("“” ‘‘ ’’ ```", "``''"),
    ("&quot;quoted&quot; &QUOT;loud&QUOT; &apos;s", "quoted &quot; loud &quot; 's"),
    ("Mr. Smith and Mrs. Jones on Main St. in Calif. today", "mr. smith and mrs. jones on main st. in calif. today"),
    ("Mr. Smith", "mr. smith"),
    ("He works at Foo Inc.", "he works at foo inc."),
    ("He works at Foo Inc. and Co. Ltd.", "he works at foo inc. and co. ltd."),
    ("Bar Co. ltd and Pty. Ltd., Pte. limited", "bar co. ltd and pty. ltd. pte. limited"),
    ("The U.S. flag, the U.K. flag and the E.U", "the u.s. flag the u.k. flag and the e.u"),
    ("in the U.S. The flag", "in the u.s. the flag"),
    ("A plan b. The rest", "a plan b the rest"),
    ("A plan b. the rest", "a plan b. the rest"),
    ("A sign with letter A.", "a sign with letter a."),
    ("I. He went", "i he went"),
    ("at 5 a.m. or 5p.m, e.g. now, i.e. then", "at 5 a.m. or 5p m e.g. now i.e. then"),
    ("vs. the Ph.D. student, Ed.D", "vs. the ph.d. student ed.d"),
    ("a Canada-U.S. border, a U.S.-U.K. deal, non-U.S.", "a canada-u.s. border a u.s.-u.k. deal non-u.s."),
    ("No. 5 and no. 7 but no. Then nos. 8, fig. 3, figs. a", "no. 5 and no. 7 but no then nos. 8 fig. 3 figs a"),
    ("bus no.", "bus no"),
    ("J.R.R. Tolkien and J.F.K", "j.r.r. tolkien and j.f.k"),
    ("St. Louis, Ste. Anne, Mt. Fuji, Ft. Worth", "st. louis ste. anne mt. fuji ft. worth"),
    ("jan.5 mo.x inc.com mo.xyz", "jan. 5 mo. x inc.com mo.xyz"),
    (
        "At 12:30 the 3.5 km, 1,000,000 people, -3 degrees, +4, .5",
        "at 12:30 the 3.5 km 1,000,000 people -3 degrees +4 .5",
    ),
    ("1/2 cup, 3 1/2 cups, 1-1/2, 11⁄2", "1/2 cup 3\xa01/2 cups 1-1/2 11⁄2"),
    ("½ and ⅓ and ⅔ and ⅞ and 2½", "1/2 and 1/3 and 2/3 and ⅞ and 2 1/2"),
    ("x² + 10⁻³ = H₂O", "x ² + 10 ⁻³ = h ₂ o"),
    ("on 11/12/2013 or 1-2-99 or 2013/11/12", "on 11/12/2013 or 1-2-99 or 2013/11/12"),
    (
        "call 555-1234 or (555) 555-1234 or 1-800-555-1234",
        "call 555-1234 or -lrb-555-rrb-\xa0555-1234 or 1-800-555-1234",
    ),
    ("dial ++44 20 7946 0000 or 020.7946.0000", "dial ++44\xa020\xa07946\xa00000 or 020.7946.0000"),
    ("a 10-year-old, 2nd and 3rd, 10x10, 50% off, 7up", "a 10-year-old 2nd and 3rd 10x10 50 % off 7up"),
    ('5\'10" tall, 6" deep', "5 10 tall 6 deep"),
    ("phone 3.14.15 ip 1.2.3.4", "phone 3.14.15 ip 1.2.3.4"),
    ("٣٤ and ٣٫٥ and ߁", "٣٤ and ٣٫٥ and ߁"),
    ("$5, US$ 10, A$3, £5, €6, ¥7, 8¢, ¤, ₤ ₠ ₹ ฿", "$ 5 us$ 10 a$ 3 # 5 $ 6 ¥ 7 8 cents $ ₤ $ ฿"),
    ("# 1 and #1 and number #one", "# 1 and # 1 and number #one"),
    ("a well-known two-piece T-shirt, x-ray, co-op", "a well-known two-piece t-shirt x-ray co-op"),
    ("half_way two__three _ __", "half_way two __ three _ __"),
    ("semi-u.s.-made a-b., c-d;", "semi-u.s.-made a-b. c-d"),
    ("a - b -- c --- d ---- e ----- f", "a b c d e ----- f"),
    ("a – b — c ― d &mdash; e &ndash;", "a b c d e"),
    ("wait ... what…ever .. and . . . or ..... or ......", "wait what ever and or or"),
    ("Hello!! What?! No!", "hello !! what ?! no"),
    ("Yahoo! Jeopardy! (OK!)", "yahoo jeopardy -lrb- ok -rrb-"),
    (
        "(parentheses) [brackets] {braces} <angles>",
        "-lrb- parentheses -rrb- -lsb- brackets -rsb- -lcb- braces -rcb- <angles>",
    ),
    ("-LRB- -rrb- -LCB-", "-lrb- -rrb- -lcb-"),
    ("a < b > c << d >> e", "a < b > c << d >> e"),
    ("&lt;tag&gt; &amp; R&amp;B AT&T &AMP; x &nbsp; y", "< tag > & r&b at&t & x y"),
    (
        '<b>bold</b> <a href="x y">link</a> <br /> <img src=\'a b\' alt="c">',
        '<b> bold </b> <a\xa0href="x\xa0y"> link </a> <br\xa0/> <img\xa0src=\'a\xa0b\'\xa0alt="c">',
    ),
    ("<!DOCTYPE html> <!-- a comment --> <5 <a b=c>", "<!doctype\xa0html> <!--\xa0a\xa0comment\xa0--> < 5 < a b = c >"),
    ("&HT; &#123; &eacute;t&eacute; caf&eacute;", "&ht; &#123; &eacute;t&eacute; caf&eacute;"),
    (
        "http://www.example.com/a_b?c=1&d=2, and https://x.org/.",
        "http://www.example.com/a_b?c=1&d=2 and https://x.org/",
    ),
    ("see www.foo.com/bar, foo.com, Foo.Com and a.b.org!", "see www.foo.com/bar foo.com foo.com and a.b.org"),
    ("HTTP://A.COM x1.com 2.edu foo.net/a(b)", "http://a.com x1.com 2 edu foo.net / a -lrb- b -rrb-"),
    ("mail me@x.com or <me@x.com> or &lt;a.b@c.co.uk&gt;.", "mail me@x.com or <me@x.com> or &lt;a.b@c.co.uk&gt;"),
    ("@bob @bob_1 @1 #tag #tag1 @@ ##", "@bob @bob_1 @ 1 #tag #tag 1 @@ ##"),
    ("file.jpg, IMG_1.jpeg a.tar.gz photo1.png. 1.jpg x.html", "file.jpg img_1 jpeg a.tar.gz photo1.png 1.jpg x.html"),
    ("C++ and c# and F# but d#", "c++ and c# and f# but d #"),
    ("and/or he/she/it a/b/c/d a\\/b 1\\/2", "and/or he/she/it a/b/c / d a\\/b 1\\/2"),
    ("\\* \\*\\* * ** *** / \\ | ^ ~ % = == +", "\\* \\*\\* * ** *** / \\ | ^ ~ % = = = +"),
    (":) :-) ;) :( :D =P 8) :] >:( <3 :-/", ":-rrb- :--rrb- ;-rrb- :-lrb- :d =p 8 -rrb- :] >:-lrb- < 3 /"),
    ("^_^ -_- (^_^) (-_-) (^.^) =.= x_x", "^_^ -_- -lrb-^_^-rrb- -lrb--_--rrb- -lrb-^.^-rrb- = = x_x"),
    ("pro-life anti-war S&P-500 S&Ls C.D.s Cap'n c'est", "pro-life anti-war s&p-500 s&ls c.d.s cap'n c'est"),
    ("café naïve Zürich ÉTÉ ß İstanbul ΟΔΟΣ", "café naïve zürich été ß i̇stanbul οδος"),
    ("e\u2060́ café", "e ́ café"),
    ("co\xadoperate \xad \xad\xad 1\xad2", "cooperate 12"),
    ("a\u200bb a\u200db \ufeffstart end\u200e", "a b a b start end"),
    ("a\xa0b\u2003c\u3000d\te", "a b c d e"),
    ("日本語の犬 中文、字。かな カナ 한국어 犬・猫", "日本語の犬 中文 、 字 。 かな カナ 한국어 犬 ・ 猫"),
    ("שלום مرحبا हिन्दी ไทย ж", "שלום مرحبا हिन्दी ไทย ж"),
    ("ＦＵＬＬ １２ ＄５ ！ ，", "ｆｕｌｌ １２ ＄ ５ ！ ，"),
    ("a dog 😀 runs 👨\u200d👩\u200d👧 a😀b", "a dog runs a b"),
    ("🐶🐱 𝒳 𠀀", ""),
    ("☺ ♥ ❤️ ★ → ∀ ™ ® © ° ± × ÷ § ¶ • † ⓐ", "☺ ♥ ❤ ★ → ∀ ™ ® © ° ± × ÷ § ¶ • † ⓐ"),
    ("\x01 a\x07b \x7f � \ue000", "a b"),
    ("\x91one\x92 \x93two\x94 a\x96b \x80", "one two a b $"),
    ("¿Qué? ¡Hola!", "¿ qué ¡ hola"),
    (
        "hello,world hello.world Hello.World end.Start foo!bar foo?bar",
        "hello world hello.world hello.world end.start foo!bar foo?bar",
    ),
    ("foo;bar foo:bar a,b x.y.z", "foo bar foo bar a b x.y.z"),
    ("a dog , a cat . and ( a bird )", "a dog a cat and -lrb- a bird -rrb-"),
    ("  two  spaces   and trailing  ", "two spaces and trailing"),
    ("", ""),
    (".", ""),
    ('"', ""),
    ("...", ""),
    ("!", ""),
    ("A", "a"),
    ("a b.", "a b."),
    ("the colour of the theatre's centre", "the colour of the theatre 's centre"),
    ("A.B.C.D. and A.B., C.D.; e.f:", "a.b.c.d. and a.b. c.d. e.f"),
    ("road . A car", "road a car"),
    ("road. A car. the end.", "road a car the end"),
    ("smile. :) ok :)", "smile :-rrb- ok :-rrb-"),
    ("2 1/2 men 1 2/3", "2\xa01/2 men 1\xa02/3"),
    ("he's 5 '5 \"5 '5'", "he 's 5 5 5 5"),
    ("o'o B'Gosh Shi'ite isn't've", "o'o b'gosh shi'ite is n't 've"),
    ("w/ a dog w/o a cat &c.", "w / a dog w/o a cat & c."),
    ("Dr. who, Dr.Who, dr.", "dr. who dr.who dr."),
    ("etc., etc. etc", "etc. etc. etc"),
    ("pp. 5-6 op. cit. ca. 1900 bldg. 7 art. 3", "pp. 5-6 op cit ca. 1900 bldg. 7 art. 3"),
    ("R+B, AT&T., A+B+C", "r+b at&t. a+b+c"),
    ("two-thirds, 5-6; x-1.", "two-thirds 5-6 x-1"),
    ("100,00 1,2,3 1.2. 1:2:3", "100,00 1,2,3 1.2 1:2:3"),
    ("on ٣/٤/٢٠١٣", "on ٣/٤/٢٠١٣"),
    ("FOO PTY. LTD and BAR PTE. LIMITED", "foo pty. ltd and bar pte. limited"),
    ("the Canada-U.S border, an EU-U.S deal", "the canada-u.s border an eu-u.s deal"),
    ("a street., a road.; a b.: c", "a street. a road. a b. c"),
    ("wait....5 . . .5", "wait 5 5"),
    ("a 1.5-inch.; a 2,5-cm., b", "a 1.5-inch. a 2,5-cm. b"),
    ("über-cool., naïve-ité.;", "über-cool. naïve-ité."),
    ("AT&T.; R&amp;B., x", "at&t. r&b. x"),
    ("'sup 'round 'sa", "sup round sa"),
    (" \u3000foo.com \xa0www.a.com a\u3000foo.com", "foo.com www.a.com a\u3000foo.com"),
    ("Hello. ' s 't", "hello s t"),
    ("a caf&eacute;., co\xadop.; ok", "a caf&eacute;. coop. ok"),
    ("a.m. p.m.", "a.m. p.m."),
]

_KINDS = {
    "words": """a the The He Dog DOG man woman's two-piece x-ray T-Shirt co-op half_way There's A. I It ltd
        limited magazine hello,world Hello.World foo!bar x.y.z colour theatre's 2 u re ve ll nt Yahoo! E! been""",
    "numbers": """0 7 007 3.14 1,000.50 .5 -3 +4 12:30 1/2 3/4 11/12/2013 1-2-99 555-1234 (555) 1-800-555-1234
        ++44 90s '90s 50% $5 US$ #1 2nd 10-year-old 5x ½ ⅓ x² 10⁻³ H₂O ٣٤ 1٫5 ߁ 5'10 6" 1.2.3.4 5: 5. 2\\/3
        1\xad2 1-1/2""",
    "abbreviations": """Mr. mrs. Dr St. etc. Inc. U.S. u.s. U.S e.g. i.e. a.m. p.m a.k.a. vs. v No. nos. fig.
        Jan. Sept. Ph.D. D.C. I. b. Co. pty. Corp. Calif. Ill. ill. La. la. del. Del. Pa. Miss. al. Bldg. tel.
        sq. op. ca. prop. art. Ph. cf. Wm. mfg. Jr. Rd. cmdr. Canada-U.S. U.S.-U.K. non-U.S. U.S.-U.S.S.R.
        A.B.C.D. ft. gen.""",
    "clitics": """'s 'S 're ’s ’re &apos;s n't n’t n`t N'T can't cannot CANNOT don’t gonna gotta lemme gimme
        wanna 'tis 'twas y'all o'clock O'Brien rock'n'roll 'n' ’n’ d'artagnan L'Oreal 'em 'till 'cause ol'
        dunkin' c'mon ev'ry cont'd. cap'n c'est I'd've dogs’ boys' o'o Shi'ite B'Gosh n'ts 's's ''s `s""",
    "quotes": """" ' '' ` `` ‘ ’ “ ” „ ‚ ‛ ‹ › « » &quot; &QUOT; &apos; \x91 \x92 \x93 \x94 ''' “” 'hello' "hi"
        ``hi'' 'a '1 "$5" … .. ... .... ..... ......""",
    "addresses": """http://a.b https://www.x.org/x_y?q=1&r=2 HTTP://A.COM/B. www.foo.com/bar, foo.com Foo.COM
        x1.com 2.edu foo.net/a/b) me@x.com <me@x.com> &lt;a@b.c&gt; a.b_c+d@e-f.co.uk. @bob @1 #tag1 ## @@ __ **
        \\* file.jpg IMG_1.jpeg a.tar.gz, 1.jpg x.h .com a,b@c,d http://a http:// www. a@ www.a.com/😀
        www.a.com/é""",
    "signs": """( ) [ ] { } < > << >> <b> </b> <br/> <?xml v?> <5 &lt; &gt; &amp; &AMP; & AT&T AT&amp;T R+B
        S&P-500 + = == % ^ ~ | \\ / and/or a/b/c/d a\\/b - -- --- ---- ----- – — \x96 &mdash; &MD; &HT; &#123;
        &nbsp; caf&eacute; _ * ; : , . ? ! ?! !! ¿ ¡ § © ™ ° ± × · • → ∀ ♥ ❤️ ⓐ Ⅷ € £ ¥ ¢ ¤ \x80 ₤ ₹ ฿ ＄ 、 。
        ・ ！ C++ c# -LRB- pro- C.D.s :) :-) ;) =P :] ^_^ -_- (^_^) (^.^) >:( <3 x.[^x=8<>] ~.~""",
    "letters": """é ü É naïve ﬁ ß İ ı ſ \u212a Å ж Я שלום مرحبا हिन्दी ไทย 日本語 カナ 한국어 ｆｕｌｌ １２
        \u0301 e\u0301 \xad co\xadop a\u200bb a\u200db \u200e \ufeff \u2060 \xa0 1\xa0/2 \u2003 a\u2003b \u3000
        \x00 \x01 \x08 \x1c \x1f \x7f \x81 \t a\tb \ufffd \uffff 😀 👨\u200d👩\u200d👧 𝒳 a😀b \u0378 \u0640
        \u0964 \u0488 ʰ ː""",
}
# Not `split()`, which takes apart the pieces that other kinds of space are in.
_PIECES = [re.split(r"\n? +", pieces) for pieces in _KINDS.values()]
CHARACTERS = "abdnstlmreviyAINSUT019 .,'’`\"-_/\\&;:!?@#$%()[]{}<>=+*~^|\xa0\xad é€½“”‘…–\u200b日😀   "


def nasty(seed: int) -> str:
    """A sentence of nasty pieces, often without space between."""
    dice = random.Random(seed)
    glue, sentence = dice.random() / 2, ""
    for _ in range(dice.randint(1, 9)):
        if dice.random() < 0.85:
            sentence += dice.choice(dice.choice(_PIECES))
        else:
            sentence += "".join(dice.choice(CHARACTERS) for _ in range(dice.randint(1, 6)))
        sentence += "" if dice.random() < glue else " " * (1 + (dice.random() < 0.07))
    return sentence
