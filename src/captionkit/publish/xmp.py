"""XMP documents (ISO 16684-1): reading texts and changing them, with whatever other programs wrote kept."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from captionkit.errors import CaptionkitError
from captionkit.publish.metadata import FIELDS, WRITER, WRITER_PROPERTY

TOOLKIT = "captionkit"
"""What wrote a document, as its `x:xmptk` says."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": _RDF,
    "dc": "http://purl.org/dc/elements/1.1/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
}
_BEGIN = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_END = '\n<?xpacket end="w"?>\n'
_EMPTY = f'<x:xmpmeta xmlns:x="{_NAMESPACES["x"]}" x:xmptk="{TOOLKIT}"><rdf:RDF xmlns:rdf="{_RDF}"/></x:xmpmeta>'


def _tag(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{_NAMESPACES[prefix]}}}{local}"


_DESCRIPTION, _ALT, _ITEM, _ABOUT = (_tag(f"rdf:{name}") for name in ("Description", "Alt", "li", "about"))
_PROPERTIES = {name: _tag(tag) for name, tag in (FIELDS | {WRITER: WRITER_PROPERTY}).items()}


class XmpDocument:
    """An XMP document in memory."""

    def __init__(self, content: bytes | None = None) -> None:
        """Parse a document, or begin one. Raises CaptionkitError for content that is no XMP, or that is an attack."""
        self._root, prefixes = _parsed(content) if content is not None else (ElementTree.fromstring(_EMPTY), {})
        for prefix, uri in {**_NAMESPACES, **prefixes}.items():
            if prefix and not re.fullmatch(r"ns\d+|xml", prefix):  # what ElementTree keeps for itself
                ElementTree.register_namespace(prefix, uri)
        found = self._root if self._root.tag == _tag("rdf:RDF") else self._root.find(_tag("rdf:RDF"))
        if found is None:
            raise CaptionkitError("is no XMP document; move it away")
        self._rdf = found

    def texts(self) -> dict[str, str]:
        """Return the texts by field."""
        found = {name: self._text(tag) for name, tag in _PROPERTIES.items()}
        return {name: text for name, text in found.items() if text}

    def change(self, texts: Mapping[str, str | None]) -> None:
        """Change these fields and no others; None removes one. Texts in other languages stay."""
        for name, text in texts.items():
            tag = _PROPERTIES[name]
            if name == WRITER or text is None:
                self._remove(tag, whole=name == WRITER)
            if text is not None:
                self._set(tag, text, alternatives=name != WRITER)

    @property
    def is_own_shell(self) -> bool:
        """Return whether captionkit began this document and no property is left in it."""
        return self._root.get(_tag("x:xmptk")) == TOOLKIT and not any(
            len(block) or set(block.keys()) - {_ABOUT} for block in self._blocks()
        )

    def to_bytes(self) -> bytes:
        """Return the document as a packet in UTF-8."""
        ElementTree.indent(self._root)
        return (_BEGIN + ElementTree.tostring(self._root, encoding="unicode") + _END).encode()

    def _blocks(self) -> list[ElementTree.Element]:
        return self._rdf.findall(_DESCRIPTION)

    def _text(self, tag: str) -> str:
        for block in self._blocks():
            if (plain := block.get(tag)) is not None:
                return plain.strip()
            if (element := block.find(tag)) is not None:
                items = list(element.iter(_ITEM))
                default = [item for item in items if item.get(_LANG) == "x-default"]
                return ((default or items or [element])[0].text or "").strip()
        return ""

    def _remove(self, tag: str, *, whole: bool) -> None:
        """Remove a property, or unless `whole` its default text, and what is empty then."""
        for block in self._blocks():
            block.attrib.pop(tag, None)
            for element in block.findall(tag):
                alternatives = element.find(_ALT)
                items = alternatives.findall(_ITEM) if alternatives is not None and not whole else []
                others = [item for item in items if item.get(_LANG) != "x-default"]
                if alternatives is None or not others or len(others) == len(items):
                    block.remove(element)
                else:
                    alternatives[:] = others

    def _set(self, tag: str, text: str, *, alternatives: bool) -> None:
        if not alternatives:
            ElementTree.SubElement(self._block(tag), tag).text = text
            return
        block = self._block(tag)
        block.attrib.pop(tag, None)
        element = block.find(tag)
        held = element.find(_ALT) if element is not None else None
        if held is None:
            for plain in block.findall(tag):
                block.remove(plain)
            held = ElementTree.SubElement(ElementTree.SubElement(block, tag), _ALT)
        default = next((item for item in held.findall(_ITEM) if item.get(_LANG) == "x-default"), None)
        if default is None:
            default = ElementTree.Element(_ITEM, {_LANG: "x-default"})
            held.insert(0, default)
        default[:] = []
        default.text = text

    def _block(self, tag: str) -> ElementTree.Element:
        """Return the description that has the property, or the first, or a new one."""
        blocks = self._blocks()
        having = [block for block in blocks if tag in block.attrib or block.find(tag) is not None]
        if having or blocks:
            return (having or blocks)[0]
        return ElementTree.SubElement(self._rdf, _DESCRIPTION, {_ABOUT: ""})


def _parsed(content: bytes) -> tuple[ElementTree.Element, dict[str, str]]:
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import DefusedXMLParser, iterparse
    except ModuleNotFoundError:
        raise CaptionkitError("cannot be read without an extra; `pip install 'captionkit[metadata]'`") from None
    text = content.strip(b"\0 \r\n\t")
    try:
        parser: Any = DefusedXMLParser(target=ElementTree.TreeBuilder(insert_comments=True), forbid_dtd=True)
        parser.feed(text)
        root: ElementTree.Element = parser.close()
        prefixes = dict(pair for _, pair in iterparse(io.BytesIO(text), events=("start-ns",), forbid_dtd=True))
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        reason = "it defines entities" if isinstance(error, DefusedXmlException) else error
        raise CaptionkitError(f"is no XMP that can be read ({reason}); move it away") from None
    return root, prefixes
