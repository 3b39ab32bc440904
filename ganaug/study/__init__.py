"""Human evaluation: do people take variants for photos, and do they still see the same person?

``ganaug study create`` makes a folder of pictures with a database (:mod:`~ganaug.study.create`), ``serve`` shows them
to raters in a browser (:mod:`~ganaug.study.server`), ``score`` says what came out (:mod:`~ganaug.study.scores`).
"""
