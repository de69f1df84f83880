#!/usr/bin/env python3
"""Draws a small set of pictures in class folders: ten kinds of shapes and patterns in random colours, places, sizes and
turns, with noise. Free of anybody's rights, the same files every time, no library needed.

  datasets/make-images.py DIR [--size 32] [--train 200] [--validation 50]     makes DIR/train/CLASS/000.png, DIR/validation/...
  ohtrain prepare images --train DIR/train --validation DIR/validation -o shapes.h5
"""
import argparse, math, os, random, struct, zlib



# Each takes coordinates in which the shape has radius about 1, and says whether the point belongs to it.
SHAPES = {
    'checkers': lambda u, v: (math.floor(u * 2) + math.floor(v * 2)) % 2 == 0,
    'cross': lambda u, v: min(abs(u), abs(v)) < .3 and max(abs(u), abs(v)) < 1,
    'disc': lambda u, v: u * u + v * v < .8,
    'dots': lambda u, v: (u * 2 % 1 - .5)**2 + (v * 2 % 1 - .5)**2 < .08,
    'frame': lambda u, v: .6 < max(abs(u), abs(v)) < .95,
    'moon': lambda u, v: u * u + v * v < .9 and (u - .45)**2 + v * v > .6,
    'ring': lambda u, v: .4 < u * u + v * v < .95,
    'square': lambda u, v: max(abs(u), abs(v)) < .75,
    'stripes': lambda u, v: math.floor(u * 2.5) % 2 == 0,
    'triangle': lambda u, v: v > -.6 and v < 1 - 1.8 * abs(u) and v < .95,
}


def png(width, height, rows):
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) +
            chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows), 9)) + chunk(b'IEND', b''))


def draw(shape, size, r):
    paper = [r.randrange(256) for _ in range(3)]
    ink = paper
    while sum(abs(a - b) for a, b in zip(paper, ink)) < 200: ink = [r.randrange(256) for _ in range(3)]
    radius, turn, noise = size * r.uniform(.25, .45), r.uniform(0, 2 * math.pi), r.uniform(2, 20)
    x0, y0 = (size / 2 + r.uniform(-.15, .15) * size for _ in range(2))
    c, s, rows = math.cos(turn), math.sin(turn), []
    for y in range(size):
        row = bytearray()
        for x in range(size):
            u, v = (x + .5 - x0) / radius, (y + .5 - y0) / radius
            colour = ink if SHAPES[shape](c * u + s * v, c * v - s * u) else paper
            row += bytes(min(255, max(0, int(k + r.gauss(0, noise)))) for k in colour)
        rows.append(bytes(row))
    return png(size, size, rows)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder')
    p.add_argument('--size', type=int, default=32, help='pixels a side')
    p.add_argument('--train', type=int, default=200, help='pictures a class')
    p.add_argument('--validation', type=int, default=50, help='pictures a class')
    a = p.parse_args()
    for split, n in (('train', a.train), ('validation', a.validation)):
        for shape in SHAPES:
            folder = os.path.join(a.folder, split, shape)
            os.makedirs(folder, exist_ok=True)
            for i in range(n):
                with open(os.path.join(folder, '%03d.png' % i), 'wb') as f:
                    f.write(draw(shape, a.size, random.Random('%s/%s/%d' % (split, shape, i))))


if __name__ == '__main__':
    main()
