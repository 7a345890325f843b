"""Make the embedded emoji: drawings of the same objects by four artists, rendered into one file.

    npm pack @iconify-json/noto @iconify-json/twemoji @iconify-json/emojione @iconify-json/fluent-emoji-flat
    pip install resvg-py
    python benchmarks/make_emoji_sprites.py DIRECTORY_OF_THE_UNPACKED_PACKAGES

The directory has a folder for each artist, such as `noto/icons.json`. `--size` renders larger sprites, for test sizes
beyond those of the embedded ones. The result is deterministic for given versions.
"""

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TARGET = Path(__file__).parents[1] / "src/ropevit/data/emoji/sprites.npz"
ARTISTS = ("noto", "twemoji", "emojione", "fluent-emoji-flat")
SIZE = 160

#: Group -> objects that all four artists drew, distinguishable by shape and color at 14 pixels.
THINGS = {
    "animal": """ant bat bird butterfly camel cat chicken chipmunk cow crab crocodile deer dog dolphin duck eagle
        elephant ewe fish fox goat gorilla honeybee horse lady-beetle leopard lizard monkey mouse octopus owl ox penguin
        pig poodle rabbit ram rat rhinoceros rooster scorpion shark shrimp snail snake spider squid tiger tropical-fish
        turkey turtle two-hump-camel water-buffalo whale spouting-whale blowfish boar baby-chick""",
    "plant": """blossom bouquet cactus cherry-blossom deciduous-tree evergreen-tree fallen-leaf four-leaf-clover herb
        hibiscus maple-leaf mushroom palm-tree rose seedling shamrock sheaf-of-rice sunflower tulip wilted-flower
        christmas-tree""",
    "fruit": """avocado banana carrot cherries chestnut cucumber ear-of-corn eggplant grapes green-apple hot-pepper
        kiwi-fruit lemon melon peach peanuts pear pineapple potato red-apple strawberry tangerine tomato watermelon""",
    "dish": """bacon baguette-bread beer-mug bento-box birthday-cake bread burrito candy cheese-wedge chocolate-bar
        cocktail-glass cooked-rice cookie cooking croissant curry-rice custard dango doughnut egg french-fries
        fried-shrimp green-salad hamburger honey-pot hot-beverage hot-dog ice-cream lollipop meat-on-bone pancakes pizza
        popcorn pot-of-food poultry-leg rice-ball shallow-pan-of-food shaved-ice shortcake soft-ice-cream spaghetti
        steaming-bowl stuffed-flatbread sushi taco teacup-without-handle tropical-drink wine-glass""",
    "vehicle": """airplane ambulance articulated-lorry automobile bicycle bullet-train bus canoe delivery-truck ferry
        fire-engine helicopter high-speed-train kick-scooter light-rail locomotive metro minibus monorail motor-boat
        motor-scooter motorcycle oncoming-automobile oncoming-bus oncoming-police-car oncoming-taxi passenger-ship
        police-car racing-car railway-car rocket sailboat ship small-airplane speedboat sport-utility-vehicle taxi
        tractor train tram tram-car trolleybus mountain-railway suspension-railway aerial-tramway mountain-cableway""",
    "building": """bank castle church classical-building convenience-store department-store derelict-house factory
        hospital hotel house house-with-garden houses japanese-castle japanese-post-office love-hotel mosque
        office-building post-office school shinto-shrine stadium synagogue tent tokyo-tower wedding circus-tent""",
    "clothing": """backpack bikini briefcase clutch-bag crown dress glasses graduation-cap handbag high-heeled-shoe
        jeans kimono mans-shoe necktie purse rescue-workers-helmet running-shirt running-shoe sunglasses t-shirt top-hat
        womans-boot womans-clothes womans-hat womans-sandal ice-skate shopping-bags""",
    "tool": """balance-scale battery bomb bow-and-arrow camera camera-with-flash clamp computer-mouse crossed-swords
        dagger desktop-computer drum electric-plug fax-machine film-projector flashlight guitar hammer hammer-and-pick
        hammer-and-wrench headphone key keyboard kitchen-knife light-bulb magnifying-glass-tilted-left megaphone
        microphone microscope mobile-phone movie-camera musical-keyboard nut-and-bolt old-key paintbrush pencil pick
        postal-horn printer radio satellite-antenna saxophone scissors shield studio-microphone syringe telephone
        telephone-receiver telescope television trumpet video-camera violin wrench fishing-pole""",
}


def to_svg(icons: dict[str, Any], name: str) -> str:
    """Complete an icon of the Iconify format to an SVG file."""
    icon = icons["icons"][name]
    box = [
        icon.get(key, icons.get(key, default))
        for key, default in zip(("left", "top", "width", "height"), (0, 0, 16, 16), strict=True)
    ]
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {links} viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'


def render(svg: str, size: int) -> bytes:
    """Render an SVG file as lossless WebP with transparency."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True))
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGBA").save(file, format="WEBP", lossless=True, method=6)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="directory with a folder for each artist, with icons.json in it")
    parser.add_argument("--size", type=int, default=SIZE, help="side of a sprite in pixels")
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    things = [(name, group) for group, names in THINGS.items() for name in names.split()]
    files = []
    for artist in ARTISTS:
        icons = json.loads((options.source / artist / "icons.json").read_text(encoding="utf-8"))
        files += [render(to_svg(icons, name), options.size) for name, _ in things]
    options.target.parent.mkdir(exist_ok=True)
    np.savez(
        options.target,
        files=np.frombuffer(b"".join(files), np.uint8),
        lengths=np.array([len(file) for file in files], np.int32),
        artists=np.array(ARTISTS),
        names=np.array([name for name, _ in things]),
        groups=np.array([group for _, group in things]),
        size=np.array(options.size),
    )


if __name__ == "__main__":
    main()
