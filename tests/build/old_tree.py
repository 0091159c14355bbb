"""A made-up old tree in the source lab's layout: absolute paths of another machine, tables as Excel and Chinese Windows
write them, pictures that are gone, and a pool whose frames all pictures were made from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.build.build_helpers import NAMES, SCENES, picture, write_pool

HOME = "/home/lab/workspace/train_v4"
PARTS = {"train": range(4), "val": range(4, 5), "test": range(5, 7)}
S1_ASK = "这是什么物体?"
S2_ASK = "绿色框中的物体是否正常?\nA. 正常\nB. 异常"
S3_ASK = "Describe the deck, then say whether anything is wrong."


@dataclass
class Tree:
    """root: train_v4. truth: file name of a picture -> (stage, frame, group, class). said: rows by dataset."""

    root: Path
    truth: dict[str, tuple[str, str, str, str]] = field(default_factory=dict)
    said: dict[str, list[tuple[str, str, str, str]]] = field(default_factory=dict)

    @property
    def singel(self) -> Path:
        return self.root / "GLM_SFT" / "Singel"

    @property
    def pool(self) -> Path:
        return self.root / "unlabeled_pool"

    @property
    def image_root(self) -> str:
        return f"{HOME}={self.root}"


def messages(question: str, answer: str, image: str | None) -> dict[str, Any]:
    user = {"role": "user", "content": question} | ({"image": image} if image else {})
    return {"messages": [user, {"role": "assistant", "content": answer}]}


def write_jsonl(path: Path, rows: list[Any], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    path.write_bytes(text.encode(encoding))
    return path


def make_tree(root: Path) -> Tree:
    """Seven sessions of two frames; of each frame one crop (S1), one picture with a drawn box (S2), itself (S3)."""
    tree = Tree(root)
    write_pool(tree.pool, sessions=7, scenes=SCENES[:2])
    for folder in ("crop_image", "image_with_yolo_box"):
        (root / folder).mkdir()
    rows: dict[tuple[str, str], list[Any]] = {}
    for part, sessions in PARTS.items():
        for session in sessions:
            for number in range(2):
                _frame(tree, rows, part, session, number)
    # What old files are full of.
    rows["region1", "train"] += [
        messages(S1_ASK, "垃圾桶", f"{HOME}/crop_image/gone.jpg"),
        messages(S1_ASK, "垃圾桶", "/alldata/elsewhere/x.jpg"),
        messages("What is an OT-2?", "A pipetting robot.", None),
        '{"messages": [{"role": "user", "content": "cut sh',
        rows["region1", "train"][0],
    ]
    two = [f"{HOME}/crop_image/s00f0.jpg", f"{HOME}/crop_image/s00f1.jpg"]
    rows["all_box2", "train"] += [
        {"query": "<image><image>Which is bent?", "response": "A", "images": two},
        messages(S2_ASK, "A", f"{HOME}/../../../etc/passwd"),
    ]
    picture(root / "image_with_yolo_box" / "stranger.jpg", 4711)
    (root / "image_with_yolo_box" / "damaged.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    rows["all_box2", "test"] += [
        messages(S2_ASK, "B", f"{HOME}/image_with_yolo_box/stranger.jpg"),
        messages(S2_ASK, "B", f"{HOME}/image_with_yolo_box/damaged.jpg"),
    ]
    for (name, part), found in rows.items():
        # One dataset was written by a program that took the system's encoding.
        write_jsonl(tree.singel / name / f"{part}.jsonl", found, "gb18030" if name == "all_box2" else "utf-8")
    mixed = rows["region1", "train"][:4] + rows["all_box2", "train"][:8]
    write_jsonl(tree.singel / "S1_and_S2" / "train_glm.jsonl", mixed)
    (tree.singel / "region1" / "split.py").write_text("print('old code')\n")
    _tables(tree)
    return tree


def _frame(tree: Tree, rows: dict[tuple[str, str], list[Any]], part: str, session: int, number: int) -> None:
    stem = f"s{session:02d}f{number}"
    frame, group = f"images/{stem}", f"s{session:02d}"
    cls, cx, cy, w, h = SCENES[number][1][0]
    image = Image.open(tree.pool / f"{frame}.jpg").convert("RGB")
    wide, high = image.size
    x0, y0, x1, y1 = (cx - w / 2) * wide, (cy - h / 2) * high, (cx + w / 2) * wide, (cy + h / 2) * high
    # Names that tell nothing: what is recovered is recovered by look.
    crop, boxed = f"c{session * 7 + number * 3:03d}.jpg", f"b{session * 5 + number * 2:03d}.jpg"
    image.crop((int(x0) - 3, int(y0) - 2, int(x1) + 4, int(y1) + 3)).save(tree.root / "crop_image" / crop, quality=88)
    wrong = number == 1
    drawn = image.copy()
    ImageDraw.Draw(drawn).rectangle((x0, y0, x1, y1), outline=(255, 0, 0) if wrong else (0, 255, 0), width=2)
    drawn.save(tree.root / "image_with_yolo_box" / boxed, quality=80)
    s2, verdict = "B" if wrong else "A", "anomaly" if wrong else "normal"
    for stage, name, place, question, answer in (
        ("S1", "region1", f"crop_image/{crop}", S1_ASK, "满的垃圾桶" if wrong else "垃圾桶"),
        ("S2", "all_box2", f"image_with_yolo_box/{boxed}", S2_ASK, s2),
        ("S3", "all_no_box", f"unlabeled_pool/{frame}.jpg", S3_ASK, f"A deck. Verdict: {verdict}."),
    ):
        rows.setdefault((name, part), []).append(messages(question, answer, f"{HOME}/{place}"))
        tree.truth[Path(place).name] = (stage, frame, group, cls)
        tree.said.setdefault(name, []).append((part, Path(place).name, question, answer))


def _tables(tree: Tree) -> None:
    """Box_QA.csv as Chinese Windows writes it, YOLO_QA_2.csv as Excel does; each with a row that nothing uses, and
    without the last of the rows that are used."""
    box = [f"{HOME}/crop_image/{name},{ask},{answer}" for _, name, ask, answer in tree.said["region1"][:-1]]
    box.append(f"{HOME}/crop_image/never.jpg,{S1_ASK},垃圾桶")
    (tree.root / "Box_QA.csv").write_bytes("\r\n".join(["图像地址,问题,答案", *box, ",,", ""]).encode("gb18030"))
    yolo = [f'{HOME}/image_with_yolo_box/{name};"{ask}";{a}' for _, name, ask, a in tree.said["all_box2"][:-1]]
    yolo.append(f'{HOME}/image_with_yolo_box/never.jpg;"{S2_ASK}";A')
    text = "\r\n".join(["sep=;", "Image_Path;Question;Answer", *yolo, ""])
    (tree.root / "YOLO_QA_2.csv").write_bytes(text.encode("utf-8-sig"))
    (tree.root / "Box_txt").mkdir()
    (tree.root / "Box_txt" / f"{NAMES[0]}.txt").write_text(f"Q: {S1_ASK}\nA: 垃圾桶\n\nQ: 没有人问过?\nA: 没有\n")
    (tree.root / "Yolo_txt").mkdir()
    (tree.root / "Yolo_txt" / "plate.txt").write_text(f"问题1: {S2_ASK}\n答案: A\n", encoding="gb18030")
    (tree.root / "Yolo_txt" / "notes.txt").write_text("only notes\n")
