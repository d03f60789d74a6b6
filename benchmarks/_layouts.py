"""Layouts of web pages: a function each, from what an author wrote to HTML and the main text in it."""

# ruff: noqa: E501 (HTML is easier to read in long lines)

import html
import random
import re
from collections.abc import Callable
from typing import NamedTuple


class Content(NamedTuple):
    """What an author wrote, before it becomes HTML."""

    title: str
    paragraphs: list[str]
    rng: random.Random

    @property
    def text(self) -> str:
        return "\n".join(self.paragraphs)


class Layout(NamedTuple):
    """The HTML of a page, and its main text."""

    page: str
    truth: str


# What stands around the text.

TOPICS = ("Home", "News", "World", "Business", "Sport", "Culture", "Opinion")
TOPICS += ("Video", "Weather", "Travel", "Science", "Health", "Jobs", "Archive")


def _p(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _ps(content: Content) -> str:
    return "\n".join(map(_p, content.paragraphs))


def _head(content: Content, extra: str = "") -> str:
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(content.title)} | The Daily '
        f'Example</title><meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/a.css">'
        f"<style>.x{{color:red}}</style><script>var track = {{id: 'UA-1', pages: ['home', 'news']}};</script>{extra}</head>"
    )


def _menu(tag: str = "nav", css: str = "nav-main") -> str:
    items = "".join(f'<li><a href="/{topic.lower()}">{topic}</a></li>' for topic in TOPICS)
    return f'<{tag} class="{css}"><ul>{items}</ul></{tag}>'


def _sidebar(rng: random.Random, tag: str = "aside") -> str:
    teasers = "".join(
        f'<li><a href="/{i}">{rng.choice(TOPICS)} update number {rng.randint(1, 99)} you should not miss today</a></li>'
        for i in range(8)
    )
    return (
        f'<{tag} class="sidebar"><h3>Most read</h3><ul>{teasers}</ul><div class="widget"><h3>Newsletter</h3><p>Sign up '
        f'for our newsletter and get the best stories every morning.</p><form><input name="mail"><button>Subscribe'
        f"</button></form></div></{tag}>"
    )


def _footer(tag: str = "footer") -> str:
    return (
        f'<{tag} class="footer"><p>Copyright 2026 The Daily Example. All rights reserved.</p><a href="/terms">Terms of '
        f'use</a> <a href="/privacy">Privacy policy</a> <a href="/contact">Contact us</a></{tag}>'
    )


def _cookies() -> str:
    return (
        '<div id="cookie-banner" class="cookie-consent"><p>We and our partners use cookies to store information on your '
        "device, to measure audiences and to show you personalised advertising. You can change your choice at any time."
        "</p><button>Accept all</button><button>Reject</button></div>"
    )


def _comments(rng: random.Random) -> str:
    said = (
        "Great post, thanks for sharing this!",
        "I could not disagree more with the author.",
        "First!",
        "Any update?",
    )
    items = "".join(
        f'<li class="comment"><span class="author">user{rng.randint(1, 999)}</span><p>{rng.choice(said)} I have read it '
        f"{rng.randint(2, 9)} times and sent it to all of my colleagues.</p><a>Reply</a></li>"
        for _ in range(5)
    )
    return f'<section id="comments" class="comments"><h2>5 comments</h2><ol class="comment-list">{items}</ol></section>'


def _share() -> str:
    return (
        '<div class="share social"><a href="#">Share on Facebook</a> <a href="#">Tweet</a> <a href="#">Email</a></div>'
    )


# Layouts.


def article(content: Content) -> Layout:
    page = (
        f"{_head(content)}<body><header>{_menu()}</header><main><article><h1>{html.escape(content.title)}</h1>"
        f"{_ps(content)}</article></main>{_sidebar(content.rng)}{_footer()}</body></html>"
    )
    return Layout(page, content.text)


def blog(content: Content) -> Layout:
    page = (
        f"{_head(content)}<body><div id='header'>{_menu('div', 'menu')}</div><div id='content'><div class='post'>"
        f"<h2 class='entry-title'>{html.escape(content.title)}</h2><div class='postmeta'>Posted by admin on May 3, 2019 "
        f"in <a href='/c'>Misc</a></div><div class='entry-content'>{_ps(content)}</div>{_share()}</div>"
        f"{_comments(content.rng)}</div><div id='sidebar'>{_sidebar(content.rng, 'div')}<div class='tagcloud'>"
        f"{' '.join(f'<a>{topic}</a>' for topic in TOPICS)}</div></div>{_footer('div')}</body></html>"
    )
    return Layout(page, content.text)


def _news(content: Content) -> Layout:
    related = '<div class="related"><h4>Related</h4><ul>' + "".join(
        f'<li><a href="/r{i}">{content.rng.choice(TOPICS)}: what we know so far about the story</a></li>' for i in range(3)
    ) + "</ul></div>"  # fmt: skip
    parts = list(map(_p, content.paragraphs))
    parts.insert(2, related)
    parts.insert(4, '<div class="ad">Advertisement</div>')
    page = (
        f"{_head(content)}<body>{_cookies()}{_menu()}<div class='container'><article class='story'><h1>"
        f"{html.escape(content.title)}</h1><div class='byline'>By Jane Doe, Reporter</div>{_share()}<figure><img src=a.jpg>"
        f"<figcaption>Photo: Agency</figcaption></figure><div class='story-body'>{''.join(parts)}</div></article>"
        f"{_sidebar(content.rng)}</div><section class='more'><h2>More stories</h2>"
        + "".join(
            f"<div class='teaser'><a href='/{i}'><h3>{topic} in pictures this week</h3></a></div>"
            for i, topic in enumerate(TOPICS)
        )
        + f"</section>{_footer()}</body></html>"
    )
    return Layout(page, content.text)


def _forum(content: Content) -> Layout:
    posts = "".join(
        f'<div class="post-row"><div class="poster"><a>member{content.rng.randint(1, 99)}</a><br>Posts: '
        f'{content.rng.randint(1, 4000)}</div><div class="postbody"><div class="content">{html.escape(text)}</div></div></div>'
        for text in content.paragraphs
    )
    page = (
        f"{_head(content)}<body>{_menu('div', 'navbar')}<h2 class='topic-title'>{html.escape(content.title)}</h2>"
        f"<div id='topic'>{posts}</div><form>Quick reply <textarea></textarea></form>{_footer('div')}</body></html>"
    )
    return Layout(page, content.text)


def _documentation(content: Content) -> Layout:
    toc = "".join(f'<li><a href="#{i}">{i}. {topic} reference</a></li>' for i, topic in enumerate(TOPICS))
    parts, truth = [], []
    for number, text in enumerate(content.paragraphs):
        if number % 3 == 0:
            parts.append(f"<h2>Part {number} of the guide</h2>")
            truth.append(f"Part {number} of the guide")
        parts.append(_p(text))
        truth.append(text)
        if number % 3 == 1:
            code = f"for item in range({number}):\n    print(item, total)\nprint('all done')"
            parts.append(f'<div class="highlight"><pre><code>{html.escape(code)}</code></pre></div>')
            truth.append(code)
    page = (
        f"{_head(content)}<body><div class='sphinxsidebar'><h3>Table of Contents</h3><ul>{toc}</ul></div>"
        f"<div class='document'><div class='body' role='main'><h1>{html.escape(content.title)}</h1>{''.join(parts)}</div>"
        f"</div><div class='related'><a>next</a> | <a>previous</a> | <a>index</a></div>{_footer('div')}</body></html>"
    )
    return Layout(page, "\n".join(truth))


def _table(content: Content) -> Layout:
    rows = [(topic, str(content.rng.randint(10, 99)), str(content.rng.randint(1000, 9999))) for topic in TOPICS[:8]]
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    table = (
        f"<table><thead><tr><th>Section</th><th>Share</th><th>Readers</th></tr></thead><tbody>{cells}</tbody></table>"
    )
    half = len(content.paragraphs) // 2
    first, second = content.paragraphs[:half], content.paragraphs[half:]
    page = (
        f"{_head(content)}<body>{_menu()}<article><h1>{html.escape(content.title)}</h1>{''.join(map(_p, first))}{table}"
        f"{''.join(map(_p, second))}</article>{_sidebar(content.rng)}{_footer()}</body></html>"
    )
    lines = ["Section Share Readers", *(" ".join(row) for row in rows)]
    return Layout(page, "\n".join([*first, *lines, *second]))


def _recipe(content: Content) -> Layout:
    first, steps = content.paragraphs[:2], content.paragraphs[2:]
    goods = [f"{content.rng.randint(2, 500)} g of {name}" for name in ("flour", "sugar", "butter", "honey", "walnuts")]
    page = (
        f"{_head(content)}<body>{_cookies()}{_menu()}<main><h1>{html.escape(content.title)}</h1>{''.join(map(_p, first))}"
        f"<h2>Ingredients</h2><ul>{''.join(f'<li>{good}</li>' for good in goods)}</ul><h2>Preparation</h2><ol>"
        f"{''.join(f'<li>{html.escape(step)}</li>' for step in steps)}</ol></main>{_comments(content.rng)}{_footer()}"
        "</body></html>"
    )
    return Layout(page, "\n".join([*first, "Ingredients", *goods, "Preparation", *steps]))


def _nested(content: Content) -> Layout:
    """No telling tag or name, and each paragraph deep in boxes."""
    boxes = "".join(
        "<div>" * 12 + f'<div class="c{i}x">{html.escape(text)}</div>' + "</div>" * 12
        for i, text in enumerate(content.paragraphs)
    )
    page = (
        f"{_head(content)}<body><div class='a1'>{_menu('div', 'b2')}</div><div class='a2'><div class='q7'>"
        f"{html.escape(content.title)}</div>{boxes}</div><div class='a3'>{_sidebar(content.rng, 'div')}</div></body></html>"
    )
    return Layout(page, content.text)


def _malformed(content: Content) -> Layout:
    """Unclosed and wrongly nested tags, no head, bare ampersands, attributes without quotes."""
    body = "".join(f"<p align=left>{text.replace('<', '&lt;')}<b></p></i>\n" for text in content.paragraphs)
    page = (
        f"<title>{content.title}</title><body bgcolor=white><div class=menu><ul><li><a href=/a?x=1&y=2>Home</a><li><a "
        f"href=/b>News & more</a></div><h1>{content.title}</b></h1><div id=main><font size=2>{body}</font><form></div>"
        "<div class=footer>Copyright & so on<script>document.write('<p>written</p>')</script>"
    )
    return Layout(page, content.text)


def _amp(content: Content) -> Layout:
    boiler = "<style amp-boilerplate>body{-webkit-animation:-amp-start 8s steps(1,end) 0s 1 normal both}</style>"
    page = (
        f"{_head(content, boiler).replace('<html', '<html amp')}<body><amp-sidebar id='s' layout='nodisplay'>{_menu('div')}"
        f"</amp-sidebar><main role='main'><article><header><h1>{html.escape(content.title)}</h1></header><amp-img src='a.jpg'"
        f" width='3' height='2'></amp-img>{_ps(content)}<amp-ad width='3' height='2' type='x'><div placeholder>Ad</div>"
        f"</amp-ad></article></main><amp-consent id='c'><p>We use cookies. Do you accept?</p></amp-consent>{_footer()}"
        "</body></html>"
    )
    return Layout(page, content.text)


def old_tables(content: Content) -> Layout:
    """Of the nineties: columns by tables, paragraphs by line breaks."""
    menu = "<br>".join(f'<a href="{topic}.htm">{topic}</a>' for topic in TOPICS)
    text = "<br><br>\n".join(map(html.escape, content.paragraphs))
    page = (
        f"<HTML><HEAD><TITLE>{html.escape(content.title)}</TITLE></HEAD><BODY BGCOLOR=#FFFFFF><TABLE WIDTH=100%><TR><TD "
        f"COLSPAN=2><H1>{html.escape(content.title)}</H1></TD></TR><TR><TD WIDTH=120 VALIGN=top>{menu}</TD><TD><FONT "
        f"FACE=Arial>{text}</FONT></TD></TR><TR><TD COLSPAN=2><CENTER>Best viewed with 800x600. Webmaster: me</CENTER></TD>"
        "</TR></TABLE></BODY></HTML>"
    )
    return Layout(page, content.text)


def short(content: Content) -> Layout:
    page = (
        f"{_head(content)}<body>{_menu()}<div class='content'><h1>{html.escape(content.title)}</h1>{_ps(content)}</div>"
        f"{_sidebar(content.rng)}{_cookies()}{_footer()}</body></html>"
    )
    return Layout(page, content.text)


def _line_breaks(content: Content) -> Layout:
    text = "<br/><br/>".join(map(html.escape, content.paragraphs))
    page = (
        f"{_head(content)}<body>{_menu('div', 'topnav')}<div class='wrapper'><h1>{html.escape(content.title)}</h1>"
        f"<div class='text'>{text}</div></div>{_footer('div')}</body></html>"
    )
    return Layout(page, content.text)


def _wiki(content: Content) -> Layout:
    rows = "".join(f"<tr><th>{topic}</th><td>{content.rng.randint(1, 9999)}</td></tr>" for topic in TOPICS[:5])
    parts, truth = [], []
    for number, text in enumerate(content.paragraphs):
        if number in (2, 5):
            parts.append(f"<h2><span>Section {number}</span><span class='mw-editsection'>[<a>edit</a>]</span></h2>")
            truth.append(f"Section {number}")
        parts.append(f"<p>{html.escape(text)}<sup class='reference'><a href='#n'>[{number}]</a></sup></p>")
        truth.append(text)
    page = (
        f"{_head(content)}<body><div id='mw-navigation'>{_menu('div', 'vector-menu')}</div><div id='content'><h1 "
        f"id='firstHeading'>{html.escape(content.title)}</h1><div id='bodyContent'><div id='siteSub'>From the encyclopedia"
        f"</div><div class='mw-parser-output'><table class='infobox'>{rows}</table>{''.join(parts)}<div class='navbox'>"
        f"{' '.join(f'<a>{topic}</a>' for topic in TOPICS)}</div></div><div id='catlinks'>Categories: <a>A</a> <a>B</a></div>"
        "</div></div></body></html>"
    )
    return Layout(page, "\n".join(truth))


def _questions(content: Content) -> Layout:
    posts = "".join(
        f"<div class='{'question' if i == 0 else 'answer'}'><div class='votecell'>{content.rng.randint(0, 90)}</div><div "
        f"class='post-text s-prose'>{_p(text)}</div><div class='user-info'>answered Jan 3 at 9:00 <a>user{i}</a></div></div>"
        for i, text in enumerate(content.paragraphs)
    )
    page = (
        f"{_head(content)}<body>{_cookies()}{_menu()}<div id='mainbar'><h1>{html.escape(content.title)}</h1>{posts}</div>"
        f"{_sidebar(content.rng, 'div')}{_footer()}</body></html>"
    )
    return Layout(page, content.text)


def _scripts(content: Content) -> Layout:
    """State in scripts, hidden boxes, and a notice for those without JavaScript."""
    state = '<script type="application/json">{"article": "not the text, but the state of the page", "n": [1, 2, 3]}</script>'
    page = (
        f"{_head(content, state)}<body><noscript><p>Please enable JavaScript to see this page as it was meant.</p></noscript>"
        f"<div id='app'><div style='display:none'>Your session has expired. Please sign in again to go on reading.</div>"
        f"{_menu()}<section class='view'><h1>{html.escape(content.title)}</h1>{_ps(content)}</section><template><p>Card "
        f"template with a title and a text</p></template></div>{state}{_footer()}</body></html>"
    )
    return Layout(page, content.text)


def _mega_menu(content: Content) -> Layout:
    menus = "".join(
        f"<li><a>{a}</a><ul>{''.join(f'<li><a>{a} and {b} for members of the club</a></li>' for b in TOPICS)}</ul></li>"
        for a in TOPICS
    )
    page = (
        f"{_head(content)}<body><ul class='mega'>{menus}</ul><div class='page'><h1>{html.escape(content.title)}</h1>"
        f"<div class='richtext'>{_ps(content)}</div></div>{_footer('div')}</body></html>"
    )
    return Layout(page, content.text)


def _press(content: Content) -> Layout:
    quote = content.paragraphs[1]
    rest = content.paragraphs[2:]
    page = (
        f"{_head(content)}<body>{_menu()}<div class='press-release'><h1>{html.escape(content.title)}</h1>"
        f"{_p(content.paragraphs[0])}<blockquote>{_p(quote)}</blockquote>{''.join(map(_p, rest))}</div><div class='about'><a "
        f"href='/about'>About us</a><a href='/imprint'>Imprint</a></div>{_share()}{_footer()}</body></html>"
    )
    return Layout(page, content.text)


def _live(content: Content) -> Layout:
    entries, truth = [], []
    for number, text in enumerate(content.paragraphs):
        entries.append(f"<div class='live-entry'><h3>Update {number} of the day</h3><div>{_p(text)}</div></div>")
        truth += [f"Update {number} of the day", text]
    page = (
        f"{_head(content)}<body>{_cookies()}{_menu()}<main><h1>{html.escape(content.title)}</h1><div class='live'>"
        f"{''.join(entries)}</div></main>{_sidebar(content.rng)}{_footer()}</body></html>"
    )
    return Layout(page, "\n".join(truth))


def _inline(content: Content) -> Layout:
    """Text broken by links, emphasis and code."""
    marked = [
        re.sub(r"\b(\w{7,})\b", lambda found: content.rng.choice(("<a href='/x'>{}</a>", "<em>{}</em>", "{}", "<code>{}</code>"))
               .format(found[1]), html.escape(text, quote=False))
        for text in content.paragraphs
    ]  # fmt: skip
    body = "".join(f"<p>{text}</p>" for text in marked)
    page = (
        f"{_head(content)}<body>{_menu()}<div class='post-content'><h1>{html.escape(content.title)}</h1>{body}</div>"
        f"{_comments(content.rng)}{_footer()}</body></html>"
    )
    return Layout(page, content.text)


LAYOUTS: tuple[Callable[[Content], Layout], ...] = (
    article, blog, _news, _forum, _documentation, _table, _recipe, _nested, _malformed, _amp, old_tables, short,
    _line_breaks, _wiki, _questions, _scripts, _mega_menu, _press, _live, _inline,
)  # fmt: skip
