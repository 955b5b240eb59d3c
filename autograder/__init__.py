"""The course's assignments (an nbgrader course) and the commands around them."""
