"""Demo data made by code: `python -m benchmarks.demo_data OUT`.

Everything is a pure function of a seed: a `Scene` (textured backdrop, moving camera, articulated textured actors) is
rendered at a time t together with its exact object masks, body-part labels and joints.

    textures   scalar fields and palettes -> RGB textures
    actors     parts attached at pivots, signals in time, and the pose of each part at time t
    families   tables of the parts of seven families         puppet   the person: 15 joints, body-part labels
    scene      camera, light, noise: scene -> frame with ground truth
    casting    which scene belongs to which class, image and held-out clip
    trees      clips, images and annotations on disk in the layouts of Kinetics, ImageNet, DAVIS, VIP and JHMDB
    generate   the list of jobs, the worker processes, `demo_data.json`
"""
