"""CHAIR: what captions name, what of it is invented, and where the figures come out."""

from __future__ import annotations

import csv
import json
import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import captionkit
from captionkit.cli.main import main
from captionkit.errors import CaptionkitError
from captionkit.eval import evaluate
from captionkit.metrics import Chair, coco_objects, evaluation, objects_invented, objects_named, tokenize
from captionkit.metrics.bootstrap import bootstrap
from captionkit.metrics.chair import OBJECTS, plural
from real_photos import make_photos

WRITTEN = {
    1: ["A brown dog runs on the grass.", "The dog is running outside."],
    2: ["Two people ride a red bus.", "A red bus carries two people."],
    3: ["A man stands by the sea.", "Someone looks at the sea."],
    4: ["A cat sleeps on a sofa.", "The cat's asleep."],
}
SAID = {1: "a dog with a frisbee", 2: "a bus", 3: "a rock in the sea", 4: "a dog and a dog on a couch"}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def references(tmp_path: Path) -> Path:
    images = [{"id": key, "file_name": f"{key}.jpg"} for key in WRITTEN]
    captions = [{"image_id": key, "caption": text} for key, some in WRITTEN.items() for text in some]
    file = tmp_path / "captions_val.json"
    file.write_text(json.dumps({"images": images, "annotations": captions}), encoding="utf-8")
    return file


def results(path: Path, said: dict[int, str]) -> Path:
    path.write_text(json.dumps([{"image_id": key, "caption": text} for key, text in said.items()]), encoding="utf-8")
    return path


def score(said: list[str], written: list[list[str]]) -> captionkit.metrics.MetricResult:
    chair = Chair()
    chair.update([tokenize(text) for text in said], [[tokenize(text) for text in some] for some in written])
    return chair.compute()


# --- the table ---


def listed(text: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in text.split(",") if phrase.strip()]


def test_the_things_are_cocos_eighty() -> None:
    assert len(OBJECTS) == len(set(OBJECTS)) == 80
    assert {"person", "traffic light", "hot dog", "potted plant", "tv", "hair drier", "toothbrush"} <= set(OBJECTS)
    for keys in (coco_objects.EITHER, coco_objects.POSSIBLE):
        assert {thing for key in keys for thing in key.split(", ")} <= set(OBJECTS)
    assert set(coco_objects.AFTER_ARTICLE.values()) <= set(OBJECTS)


@pytest.mark.parametrize("thing", OBJECTS)
def test_each_thing_is_named_by_its_name_and_by_the_plural(thing: str) -> None:
    several = {"knife": "knives", "mouse": "mice", "skis": "skis", "scissors": "scissors", "sheep": "sheep"}
    assert objects_named(f"there is an {thing}") == {thing}
    assert objects_named(f"there are two {several.get(thing, plural(thing))} here") == {thing}


def test_no_phrase_means_two_things_or_is_a_function_word() -> None:
    meanings: dict[str, str] = {}
    lists = coco_objects.NAMED | coco_objects.EITHER | {"nothing": coco_objects.NOTHING}
    for thing, phrases in lists.items():
        for phrase in listed(phrases):
            assert meanings.setdefault(phrase, thing) == thing, phrase
    said = "is as was has this us uses its it does goes these those one ones i a an the of on in at and with to"
    for phrases in (*lists.values(), *coco_objects.POSSIBLE.values()):
        spellings = {form for phrase in listed(phrases) for form in (phrase, plural(phrase))}
        assert spellings.isdisjoint(said.split())


NAMED = {
    "a hot dog on a plate": {"hot dog"},
    "a dog looks at two hot dogs": {"dog", "hot dog"},
    "a hot-dog and a stop-sign": {"hot dog", "stop sign"},
    "a teddy bear": {"teddy bear"},
    "a bear in the woods": {"bear"},
    "Two PUPPIES, and a kitten.": {"dog", "cat"},
    "men and women ride motorbikes": {"person", "motorcycle"},
    "the man's dog": {"person", "dog"},
    "a baseball player swings a baseball bat": {"person", "baseball bat"},
    "a batter at bat": {"person"},
    "boys play football": {"person"},
    "a boy kicks a football": {"person", "sports ball"},
    "a boy in a football jersey": {"person"},
    "a baseball in a glove": {"sports ball"},
    "an orange cat": {"cat"},
    "an orange and white cat": {"cat"},
    "an orange and a banana": {"orange", "banana"},
    "a woman dressed in orange": {"person"},
    "sliced oranges": {"orange"},
    "a glass of orange juice": set(),
    "a glass of red wine": {"wine glass"},
    "a glass door": set(),
    "a cell phone by a telephone pole": {"cell phone"},
    "toilet paper by a toilet": {"toilet"},
    "train tracks at a station": set(),
    "a passenger train": {"train"},
    "a passenger jet": {"airplane"},
    "a fire truck at a fire hydrant": {"truck", "fire hydrant"},
    "a plant": set(),
    "a potted plant": {"potted plant"},
    "a man surfing": {"person"},
    "a baby elephant and its mother": {"elephant"},
    "a baby with its mother": {"person"},
    "a snowman": set(),
    "a bus stop": set(),
    "a flower bed": set(),
    "a bike": {"bicycle"},
    "a computer mouse and a keyboard": {"mouse", "keyboard"},
    "a person in a tie ties a rope": {"person", "tie"},
    "": set(),
    "words of no thing": set(),
}


@pytest.mark.parametrize("caption", NAMED)
def test_what_a_caption_names(caption: str) -> None:
    assert objects_named(caption) == NAMED[caption]


INVENTED = [
    ("a dog", ["a cat"], ["dog"]),
    ("a dog and a dog with a frisbee", ["a cat"], ["dog", "frisbee"]),
    ("a dog", ["a cat", "a puppy plays"], []),
    ("a bike", ["a motorcycle"], []),
    ("a bike", ["a car"], ["bicycle"]),
    ("a bicycle", ["a motorcycle"], ["bicycle"]),
    ("a bear in a chair", ["a teddy bear in a chair"], []),
    ("a man on skis", ["a skier"], []),
    ("a man on a snowboard", ["a man skiing"], ["snowboard"]),
    ("an orange", ["an orange cat"], ["orange"]),
    ("an orange", ["bananas, apples and orange"], []),
    ("a fork", ["a plate and silverware"], []),
    ("a person", ["this is a dog", "a dog wags his tail"], ["person"]),
    ("a person", ["his hat is red"], []),
    ("a person", ["a group of cars"], ["person"]),
    ("a child", ["a mother and baby beside a dog"], []),
    ("a dog", ["a hot dog"], ["dog"]),
    ("a sports car", ["a vehicle"], []),
    ("a person with a tie", ["a man in a suit"], ["tie"]),
    ("nothing much", ["a dog"], []),
]


@pytest.mark.parametrize(("caption", "written", "expected"), INVENTED)
def test_what_is_invented(caption: str, written: list[str], expected: list[str]) -> None:
    assert objects_invented(caption, written) == expected


# --- the rates ---


def brute_force(said: list[str], written: list[list[str]]) -> tuple[Fraction, Fraction]:
    """CHAIRi and CHAIRs from the definition, for captions of whole words of one meaning: by one regular expression."""
    meaning = {}
    for thing, phrases in coco_objects.NAMED.items():
        for phrase in listed(phrases):
            meaning |= {phrase: thing, plural(phrase): thing}
    for phrase in listed(coco_objects.NOTHING):
        meaning |= {phrase: "", plural(phrase): ""}
    longest_first = sorted(meaning, key=len, reverse=True)
    pattern = re.compile(r"(?<!\S)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\S)")

    def things(text: str) -> list[str]:
        return [meaning[found] for found in pattern.findall(text) if meaning[found]]

    mentioned = invented = flagged = 0
    for caption, some in zip(said, written, strict=True):
        there = {thing for reference in some for thing in things(reference)}
        wrong = [thing for thing in things(caption) if thing not in there]
        mentioned += len(things(caption))
        invented += len(wrong)
        flagged += bool(wrong)
    return Fraction(invented, max(mentioned, 1)), Fraction(flagged, len(said))


def made_up(seed: int, images: int) -> tuple[list[str], list[list[str]]]:
    """Captions of phrases of the table (those that stand for one thing alone) between other words."""
    generator = random.Random(seed)
    elsewhere = {
        word
        for text in (*coco_objects.POSSIBLE.values(), *coco_objects.EITHER.values(), coco_objects.OR_ANIMAL)
        for phrase in listed(text)
        for word in phrase.split()
    }
    phrases = [
        form
        for text in (*coco_objects.NAMED.values(), coco_objects.NOTHING)
        for phrase in listed(text)
        for form in (phrase, plural(phrase))
        if not elsewhere.intersection(word for spelling in (phrase, form) for word in spelling.split())
        and not {"'s", "'"}.intersection(phrase.split())
        and "." not in phrase
        and "'" not in phrase
    ]
    few = generator.sample(phrases, 30)

    def sentence() -> str:
        return " zzz ".join(generator.choices(few, k=generator.randint(0, 4)))

    return [sentence() for _ in range(images)], [
        [sentence() for _ in range(generator.randint(1, 5))] for _ in range(images)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_the_definition_by_brute_force(seed: int) -> None:
    said, written = made_up(seed, images=40)
    expected = brute_force(said, written)
    assert 0 < expected[0] < 1
    chair = Chair()
    chair.update([text.split() for text in said], [[text.split() for text in some] for some in written])
    result = chair.compute()
    assert list(result.values.values()) == [pytest.approx(float(value), abs=1e-12) for value in expected]
    # A corpus score is that of sums over images, so that any half of them scores as if scored alone.
    half = [float(value) for value in brute_force(said[:20], written[:20])]
    np.testing.assert_allclose(result.corpus(result.statistics[:20].sum(0)), half, atol=1e-12)


def test_rates_of_a_corpus_worked_by_hand() -> None:
    result = score(list(SAID.values()), list(WRITTEN.values()))
    # dog, frisbee; bus; none; dog, dog, couch: six mentions, of which the frisbee and two dogs are invented.
    assert result.values == {"CHAIRi": 3 / 6, "CHAIRs": 2 / 4}
    np.testing.assert_allclose(result.per_image, [[1 / 2, 1], [0, 0], [0, 0], [2 / 3, 1]])
    assert result.remarks == {"invented": ["frisbee", "", "", "dog"]} and result.less_is_better
    (edges,) = bootstrap([result], resamples=500, seed=0)
    assert (edges[0] <= [3 / 6, 2 / 4]).all() and (edges[1] >= [3 / 6, 2 / 4]).all() and (edges[0] < edges[1]).all()


def test_captions_without_a_thing_have_no_invention() -> None:
    assert score(["", "a view"], [["a dog"], ["a cat"]]).values == {"CHAIRi": 0.0, "CHAIRs": 0.0}


def test_batches_add_up_and_reset_forgets() -> None:
    said, written = list(SAID.values()), list(WRITTEN.values())
    whole, parts = score(said, written), Chair()
    parts.update([["a", "dog"]], [[["a", "cat"]]])
    parts.reset()
    for n in range(4):
        parts.update([tokenize(said[n])], [[tokenize(text) for text in written[n]]])
    assert parts.compute().values == whole.values and parts.compute().remarks == whole.remarks


def test_token_ids_are_refused_as_they_name_nothing() -> None:
    with pytest.raises(ValueError, match="7 is no word; objects are found in words"):
        Chair().update([[7, 8]], [[["a", "dog"]]])
    with pytest.raises(ValueError, match="7 is no word"):
        Chair().update([["a"]], [[[7]]])


# --- through evaluate and the command ---


def test_score_prints_chair_beside_the_usual_scores(tmp_path: Path, references: Path, capsys) -> None:
    assert run("score", references, results(tmp_path / "r.json", SAID), "--chair") == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("CHAIRs")]
    assert "0.5000" in line and line.endswith("less is better") and "CIDEr-D" in out and "distinct" in out
    (cider,) = [line for line in out.splitlines() if line.startswith("CIDEr-D")]
    assert "less is better" not in cider


def test_score_json_per_image_and_compare(tmp_path: Path, references: Path, capsys) -> None:
    said = results(tmp_path / "r.json", SAID)
    honest = results(tmp_path / "honest.json", {**SAID, 1: "a dog", 4: "a cat on a couch"})
    rows = tmp_path / "images.csv"
    arguments = ("--metrics", "chair,rouge", "--chair", "--per-image", rows, "--compare", honest)
    assert run("score", references, said, *arguments, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["CHAIRi"] == 0.5 and made["less is better"] == ["CHAIRi", "CHAIRs"]
    assert made["intervals"]["CHAIRs"][0] <= 0.5 <= made["intervals"]["CHAIRs"][1]
    assert made["comparison"]["CHAIRs"]["difference"] == 0.5 and made["comparison"]["CHAIRs"]["less is better"] is True
    assert "less is better" not in made["comparison"]["ROUGE-L"]
    table = list(csv.DictReader(rows.open(encoding="utf-8")))
    assert [row["invented"] for row in table] == ["frisbee", "", "", "dog"]
    assert [float(row["CHAIRs"]) for row in table] == [1, 0, 0, 1]
    assert run("score", references, said, *arguments) == 0
    compared = [line for line in capsys.readouterr().out.splitlines() if "+0.5000" in line]
    assert [line.split()[0] for line in compared] == ["CHAIRi", "CHAIRs"]
    assert all(line.endswith("less is better") for line in compared)


def test_chair_is_not_computed_unasked(tmp_path: Path, references: Path, capsys) -> None:
    assert run("score", references, results(tmp_path / "r.json", SAID), "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert "CHAIRs" not in made and "less is better" not in made


def test_chair_needs_no_data_of_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for besides the usual metrics does not make METEOR one that was asked for."""
    monkeypatch.setattr(evaluation, "data_missing", lambda: "its data is not installed")
    scores = captionkit.evaluate(SAID, WRITTEN, ["usual", "chair"])
    assert "METEOR" not in scores and {"CIDEr-D", "CHAIRi"} <= set(scores) and scores.variety is not None
    assert "METEOR is left out: its data is not installed" in scores.notes


OTHERS = {
    "German": ["Ein Hund rennt über die Wiese.", "Zwei Personen im Bus", "Eine Frau mit Laptop", "Ein Mann am Meer"],
    "French": ["Un chien court dans l'herbe.", "Deux personnes dans un bus", "Une femme sur un canapé", "Un chat dort"],
    "Spanish": ["Un perro corre por la hierba.", "Dos personas en un bus", "Una mujer come pizza", "Un gato duerme"],
    "Dutch": ["Een hond rent over het gras.", "Twee mensen in een bus", "Een vrouw op een bank", "Een kat slaapt"],
    "Portuguese": ["Um cão corre na relva.", "Duas pessoas junto a um sofá", "A mulher come pizza", "Um gato dorme"],
    "Italian": ["Un cane corre sul prato.", "Due persone in bus", "Una donna con il laptop", "Un gatto dorme"],
    "Chinese": ["一只狗在草地上跑", "两个人坐公交车", "一个女人在沙发上", "一只猫在睡觉"],
    "Russian": ["Собака бежит по траве.", "Два человека в автобусе", "Женщина на диване", "Кошка спит"],
}


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages_are_told_that_it_does_not_apply(language: str) -> None:
    written = {n: [text] for n, text in enumerate(OTHERS[language])}
    said = {n: some[0] for n, some in written.items()}
    scores = captionkit.evaluate(said, written, ["rouge", "chair"])
    assert "CHAIRs" not in scores and scores["ROUGE-L"] == 1
    assert "CHAIR is left out: its table of words is English, and the references are not" in scores.notes
    with pytest.raises(CaptionkitError, match="CHAIR is left out: its table of words is English"):
        captionkit.evaluate(said, written, ["chair"])


@pytest.mark.parametrize("written", ["the view of a hill", "rocks and waves", "waves crashing", "a cat", "two cats"])
def test_few_words_of_english_are_english(written: str) -> None:
    assert captionkit.evaluate({1: "a dog"}, {1: [written]}, ["chair"])["CHAIRs"] == 1


def test_the_gallery_puts_the_most_truthful_first() -> None:
    scores = captionkit.evaluate(SAID, WRITTEN, ["chair"])
    assert evaluate._ranked(scores, "CHAIRi").tolist() == [1, 2, 0, 3]
    rouge = captionkit.evaluate(SAID, WRITTEN, ["rouge"])
    assert evaluate._ranked(rouge, "ROUGE-L")[0] == rouge.per_image["ROUGE-L"].argmax()


def test_evaluate_reports_chair_of_the_captions_it_makes(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="the extra `demo` is not installed")
    photos, out = make_photos(tmp_path / "photos"), tmp_path / "out"
    options = ("--num-beams", 1, "--metrics", "chair", "--resamples", 20)
    assert run("evaluate", "bundled", photos, "--output", out, *options) == 0
    made = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    again = captionkit.evaluate(out / "results.json", photos, ["chair"])
    assert made["CHAIRs"] == again["CHAIRs"] and made["CHAIRi"] == again["CHAIRi"]
    assert "Best by CHAIRi" in (out / "gallery.html").read_text(encoding="utf-8")
