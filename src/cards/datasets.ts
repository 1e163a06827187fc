/** @file What is known of the datasets that have a name here: their Hub ids, whose words they are cited by, the originals. */

export interface KnownDataset {
  readonly title: string
  /** What its images show, after "images of". */
  readonly what: string
  /** What is to be told of them, where a dataset has several targets: by its name in a config, the first by default. */
  readonly targets?: Readonly<Record<string, string>>
  /** On the Hub, where the dataset is there and is the same. */
  readonly hub?: string
  /** Drawn by this package: the seed is all it takes. */
  readonly drawn?: true
  /** Fingerprints of the original files' content and the images in each, where this package's reader gives one of them. */
  readonly original?: { readonly train: Original; readonly test: Original }
  readonly citation?: string
}

export interface Original {
  readonly fingerprint: string
  readonly images: number
}

const DATASETS: ReadonlyMap<string, KnownDataset> = new Map<string, KnownDataset>([
  [
    "mnist",
    {
      title: "MNIST",
      what: "handwritten digits, grey, 28 x 28 pixels",
      hub: "ylecun/mnist",
      original: {
        train: { fingerprint: "6e3acc2c390fffa89009ce9ed697897c92fa80a8de75c4512828d4156bc4de00", images: 60_000 },
        test: { fingerprint: "715ab239858fa7adeeee561465beaf009584a9c7bd711259316e754a87459bd7", images: 10_000 },
      },
      citation: `@article{lecun1998gradient,
  title   = {Gradient-based learning applied to document recognition},
  author  = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume  = {86},
  number  = {11},
  pages   = {2278--2324},
  year    = {1998}
}`,
    },
  ],
  [
    "fashion-mnist",
    {
      title: "Fashion-MNIST",
      what: "articles of clothing, grey, 28 x 28 pixels",
      hub: "zalando-datasets/fashion_mnist",
      citation: `@article{xiao2017fashion,
  title   = {Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author  = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal = {arXiv preprint arXiv:1708.07747},
  year    = {2017}
}`,
    },
  ],
  [
    "cifar10",
    {
      title: "CIFAR-10",
      what: "animals and vehicles of ten kinds, in colour, 32 x 32 pixels",
      hub: "uoft-cs/cifar10",
      citation: `@techreport{krizhevsky2009learning,
  title       = {Learning multiple layers of features from tiny images},
  author      = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year        = {2009}
}`,
    },
  ],
  [
    "induction",
    {
      title: "Induction",
      what: "two small shapes, side by side or one above the other, drawn by a program; the class says how they lie and whether they are the same",
      drawn: true,
      original: {
        train: { fingerprint: "795a8dba4f82bfbc2c2aaaee0696c63e6ee0c63897db001f90bbf9ef863d58f8", images: 5872 },
        test: { fingerprint: "23ee723ecb0b3d22f447b0bc7a65c82f9c3c607a7b2278e0d37bb34828eb2d90", images: 656 },
      },
    },
  ],
  [
    "polygenic-induction",
    {
      title: "Polygenic induction",
      what: "four small shapes in a row or a column, drawn by a program; the class says which of them are the same and how they lie",
      drawn: true,
    },
  ],
  [
    "circle",
    {
      title: "Circle",
      what: "a clock face with two of its hours marked, drawn by a program; the class is the sum of the two, modulo the number of hours",
      drawn: true,
    },
  ],
  [
    "dsprites",
    {
      title: "dSprites",
      what: "one white square, ellipse or heart on black, of various sizes, turns and places, 64 x 64 pixels",
      targets: {
        shape: "the class is the shape",
        scale: "the class is the size, one of six",
        position: "the two numbers are where it is, x and y from 0 to 1",
        orientation: "the class is how far it is turned, one of 39",
      },
      drawn: true,
      citation: `@misc{dsprites17,
  title        = {dSprites: Disentanglement testing Sprites dataset},
  author       = {Matthey, Loic and Higgins, Irina and Hassabis, Demis and Lerchner, Alexander},
  howpublished = {https://github.com/google-deepmind/dsprites-dataset/},
  year         = {2017}
}`,
    },
  ],
])

/** `name` as a config or a split has it: "mnist", "mnist/test". */
export const knownDataset = (name: string): KnownDataset | undefined => DATASETS.get(name.split("/")[0]!)

/**
 * Is what was read as this dataset the dataset itself? Undefined where nothing tells: other files in the same format can be
 * read under any name, and only a fingerprint knows them.
 */
export function isOriginal(
  { original, drawn }: KnownDataset,
  part: "train" | "test",
  fingerprint: string | undefined,
): boolean | undefined {
  if (drawn) return true
  if (!original || fingerprint === undefined) return undefined
  return original[part].fingerprint === fingerprint
}
