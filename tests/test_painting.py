import numpy as np
import pytest
from PIL import Image

from ropevit.painting import (
    OPACITY,
    Annotation,
    add_legend,
    class_color,
    enlargement,
    line_width,
    load_font,
    overlap,
    paint_boxes,
    paint_labels,
    place_tag,
    text_color_on,
)

GRAY = (128, 128, 128)


def gray(width=640, height=480):
    return Image.new("RGB", (width, height), GRAY)


def pixels(image):
    return np.asarray(image).astype(int)


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in color)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_every_class_has_its_own_color():
    colors = np.array([class_color(label) for label in range(1000)])
    assert len({tuple(color) for color in colors}) == 1000
    apart = np.abs(colors[:20, None] - colors[None, :20]).max(-1) + 255 * np.eye(20)
    assert apart.min() > 25, "the first twenty are easily distinguished"
    neighbors = np.abs(colors[1:] - colors[:-1]).max(-1)
    assert neighbors.min() > 90, "classes with neighboring numbers differ the most"


def test_text_contrasts_with_every_color():
    for color in map(class_color, range(200)):
        light, dark = sorted((luminance(color), luminance(text_color_on(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, "the contrast that WCAG asks for"


def test_box_line_covers_the_outermost_pixels():
    painted = pixels(paint_boxes(gray(), [Annotation((100.0, 200.0, 300.4, 260.0), 7, "")]))
    color = class_color(7)
    for x, y in [(100, 230), (299, 230), (250, 259), (100, 259), (299, 200)]:
        assert tuple(painted[y, x]) == color
    for x, y in [(99, 230), (301, 230), (250, 260), (150, 230)]:
        assert tuple(painted[y, x]) == GRAY


def test_box_at_the_image_border_is_drawn_inside():
    painted = pixels(paint_boxes(gray(), [Annotation((-3.0, -1.0, 640.0, 482.0), 3, "")]))
    for x, y in [(0, 100), (639, 100), (300, 479), (300, 0)]:
        assert tuple(painted[y, x]) == class_color(3)


def test_first_box_is_drawn_on_top():
    marks = [Annotation((100.0, 100.0, 200.0, 200.0), label, "") for label in (1, 2)]
    assert tuple(pixels(paint_boxes(gray(), marks))[199, 150]) == class_color(1)


def test_small_images_are_enlarged_with_their_boxes():
    painted = pixels(paint_boxes(gray(40, 90), [Annotation((10.0, 20.0, 30.0, 80.0), 5, "")]))
    assert painted.shape == (630, 280, 3)
    assert tuple(painted[300, 70]) == tuple(painted[300, 209]) == class_color(5)
    assert tuple(painted[300, 69]) == tuple(painted[300, 210]) == GRAY
    assert enlargement((640, 480)) == 1


def test_lines_and_fonts_scale_with_the_image():
    small, large = (640, 480), (2560, 1920)
    assert line_width(large) == pytest.approx(4 * line_width(small), abs=2)
    assert load_font(large).size == pytest.approx(4 * load_font(small).size, abs=2)


def test_tags_stay_in_the_image_and_do_not_overlap_where_there_is_room():
    size, tag = (200, 100), (60, 12)
    assert place_tag((20, 50, 90, 80), tag, size, []) == (20, 38, 80, 50)  # above the box
    assert place_tag((20, 50, 90, 80), tag, size, [(0, 0, 100, 45)]) == (20, 50, 80, 62)
    assert place_tag((20, 50, 90, 80), tag, size, [(0, 0, 100, 60)]) == (20, 81, 80, 93)
    assert place_tag((190, 5, 199, 90), tag, size, []) == (140, 5, 200, 17)  # no room above, none to the right
    tags = []
    for left in (10, 14, 18, 22):
        tags.append(place_tag((left, 50, 90, 80), tag, size, tags))
    assert not any(overlap(one, other) for one in tags for other in tags if one is not other)
    assert place_tag((10, 50, 90, 80), tag, size, tags) == (10, 38, 70, 50)  # no room left: over others


def test_tag_background_has_the_class_color():
    empty, written = (
        pixels(paint_boxes(gray(), [Annotation((100.0, 200.0, 400.0, 300.0), 2, x)])) for x in ("", "dog 0.9")
    )
    part = written[:200][(written != empty).any(-1)[:200]]
    assert (part == class_color(2)).all(-1).mean() > 0.5
    assert (part == text_color_on(class_color(2))).all(-1).sum() > 20


def test_labels_are_blended_with_the_image_and_outlined_in_white():
    labels = np.zeros((480, 640), dtype=np.int64)
    labels[:, 300:] = 9
    painted = pixels(paint_labels(gray(), labels))
    for x, label in ((100, 0), (500, 9)):
        wanted = OPACITY * np.array(class_color(label)) + (1 - OPACITY) * np.array(GRAY)
        assert np.abs(painted[200, x] - wanted).max() <= 1
    assert tuple(painted[200, 300]) == (255, 255, 255)
    assert (painted == 255).all(-1).sum() == 480, "one line, of one pixel"


def test_legend_is_added_below_in_class_colors():
    entries = [(label, f"class {label}") for label in range(30)]
    drawing = add_legend(gray(), entries)
    assert pixels(drawing)[:480].tolist() == pixels(gray()).tolist()
    below = {tuple(color) for color in pixels(drawing)[480:].reshape(-1, 3)}
    assert {class_color(label) for label in range(30)} <= below
    assert drawing.height > add_legend(gray(), entries[:3]).height, "in rows"
    assert add_legend(gray(), []).size == (640, 480)


def test_name_longer_than_the_image_widens_the_legend():
    drawing = add_legend(gray(20, 800), [(0, "a very long name of a class")])
    assert drawing.width > 100
    assert (pixels(drawing)[:, -4:] == 255).all(), "room after the text"


def test_name_with_newlines_or_control_characters_is_drawn_on_one_line():
    image = Image.new("RGB", (500, 400), "white")
    named, escaped = (
        (paint_boxes(image, [Annotation((50, 50, 300, 300), 0, text)]), add_legend(image, [(0, text)]))
        for text in ("a\nb\x1b[2J", r"a\nb\x1b[2J")
    )
    assert [drawing.tobytes() for drawing in named] == [drawing.tobytes() for drawing in escaped]
