"""Tables written by hand are read as they are meant, or refused with their line."""

import pickle

import pytest

from perfkit import picktables

IMAGEID = "imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\n"
CASE = "case,set,aif_x,aif_y,aif_z,vof_x,vof_y,vof_z\n"


@pytest.fixture
def read(tmp_path):
    def call(content):
        path = tmp_path / "picks.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [(row.line, row.scan, row.aif, row.vof) for row in picktables.read_rows(path).rows]

    return call


def test_both_layouts(read):
    assert read(IMAGEID + "345561,12,34,1,56,78,0\n345568,1,2,3,4,5,6\n") == [
        (2, 345561, (12, 34, 1), (56, 78, 0)),
        (3, 345568, (1, 2, 3), (4, 5, 6)),
    ]
    assert read(CASE + "1,train,12,34,1,56,78,0\n1,test,1,2,3,4,5,6\n") == [
        (2, "case_1", (12, 34, 1), (56, 78, 0)),
        (3, "testing_case_1", (1, 2, 3), (4, 5, 6)),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfimageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\r\n7,1,2,3,4,5,6\r\n",  # BOM, Windows
        "IMAGEID, aifX ,AIF_y,aif z,vofx,VOFY,Vof_z\n 7 , 1, 2,3 ,4,5,6\n",
        "imageID;AIFx;AIFy;AIFz;VOFx;VOFy;VOFz\n7;1;2;3;4;5;6\n",
        "imageID;AIFx;AIFy;AIFz;VOFx;VOFy;VOFz\n7,0;1,0;2,0;3,0;4;5;6\n",  # a German spreadsheet
        "imageID\tAIFx\tAIFy\tAIFz\tVOFx\tVOFy\tVOFz\n7\t1\t2\t3\t4\t5\t6\n",
        '"imageID","AIFx","AIFy","AIFz","VOFx","VOFy","VOFz"\n"7","1","2","3","4","5","6"\n',
        ",imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz,rater\n0,7,1.0,2.0,3.0,4.00,5.,6,me\n",  # as pandas writes
        "VOFz,VOFy,VOFx,AIFz,AIFy,AIFx,imageID\n6,5,4,3,2,1,7\n",
        "\n\nimageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\n\n7,1,2,3,4,5,6\n,,,,,,\n",
        "imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\nSMIR.Brain.XX.O.CT_4DPWI.7,1,2,3,4,5,6",
    ],
)
def test_what_people_and_spreadsheets_do_to_a_table_does_not_matter(read, content):
    ((_, scan, aif, vof),) = read(content)
    assert (scan, aif, vof) == (7, (1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    "row", ["7,1,2,3,,,", "7,1,2,3", "7,1,2,3,nan,NaN,nan", "7,1,2,3,-,-,-", "7,1,2,3,None,None,None"]
)
def test_a_row_may_lack_its_vof(read, row):
    assert read(IMAGEID + row) == [(2, 7, (1, 2, 3), None)]
    assert read("imageID,AIFx,AIFy,AIFz\n7,1,2,3\n") == [(2, 7, (1, 2, 3), None)]


@pytest.mark.parametrize(
    "case, set_, name",
    [
        ("3", "train", "case_3"),
        ("3.0", "Training", "case_3"),
        ("case_3", "TRAINING", "case_3"),
        ("case_3", "test", "testing_case_3"),
        ("testing_case_3", "testing", "testing_case_3"),
        ("testing_case_3", "", "testing_case_3"),
        ("CASE_3", "", "case_3"),
        ("anna", "", "anna"),
        ("anna", "train", "anna"),
        ("3", "", "3"),
    ],
)
def test_case_and_set_name_the_scan(read, case, set_, name):
    ((_, scan, *_),) = read(CASE + f"{case},{set_},1,2,3,4,5,6\n")
    assert scan == name


@pytest.mark.parametrize(
    "content, words",
    [
        (IMAGEID + "7,1,2,3,4,5,6\n8,1,2.5,3,4,5,6\n", r"line 3: an AIF voxel is three whole"),
        (IMAGEID + "7,1,-2,3,4,5,6\n", r"line 2: .*0 or more"),
        (IMAGEID + "7,1,2,,4,5,6\n", r"line 2: .*three whole numbers"),
        (IMAGEID + "7,1,2,3,4,,6\n", r"line 2: a VOF voxel"),
        (IMAGEID + "7,1,2,x,4,5,6\n", r"line 2: .*'x'"),
        (IMAGEID + "7,1e1,2,3,4,5,6\n", r"line 2: .*1e1"),
        (IMAGEID + "7,1" + 5000 * "0" + ",2,3,4,5,6\n", r"line 2: an AIF voxel is three whole"),
        (IMAGEID + 5000 * "7" + ",1,2,3,4,5,6\n", r"line 2: imageID is the number"),
        (IMAGEID + "7,,,,,,\n", r"line 2: .*neither came"),
        (IMAGEID + "7,1\n", r"line 2: 4 columns are due, 2 came"),
        (IMAGEID + 'seven,1,2,3,4,5,6\n', r"line 2: imageID is the number .*'seven'"),
        (IMAGEID + '\n7,1,2,"3,4,5,6\n', r"line 3: not a line of CSV"),
        (CASE + "1,validation,1,2,3,4,5,6\n", r"line 2: set says train or test; 'validation'"),
        (CASE + "testing_case_1,train,1,2,3,4,5,6\n", r"line 2: .*of the test set, but set says train"),
        (CASE + ",train,1,2,3,4,5,6\n", r"line 2: .*case is empty"),
        (IMAGEID, "none below its header"),
        ("", r"line 1: .*starts with imageID,AIFx"),
        ("x,y,z\n1,2,3\n", r"line 1: .*starts with 'x,y,z'"),
        ("imageID,AIFx,AIFx,AIFy,AIFz\n7,1,2,3,4\n", "aifx stands twice"),
        ("imageID,AIFx,AIFy,AIFz,VOFx\n7,1,2,3,4\n", "VOFx, VOFy, VOFz belong together"),
        ("imageID,AIFx,AIFy,AIFz\n7,1,2,3 \xb5".encode("latin-1"), "UTF-8"),
        (b"PK\x03\x04 a workbook", "a workbook. Save its sheet as CSV"),
    ],
)  # fmt: skip
def test_all_else_is_refused_with_its_line(read, content, words):
    with pytest.raises(ValueError, match=words) as caught:
        read(content)
    assert "picks.csv" in str(caught.value)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("name", ["picks.pkl", "picks.pickle", "picks.npy", "picks.csv", "picks"])
def test_a_pickle_is_never_opened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Trap(), protocol=4))
    with pytest.raises(ValueError, match="unpickling runs whatever its author wrote"):
        picktables.read_rows(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        picktables.read_rows(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError):
        picktables.read_rows(tmp_path / "none.pkl")


def test_a_table_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "out.csv"
    picktables.write_rows(path, "imageid", [(7, 1, 2, 3, 4, 5, 6)])
    assert path.read_text() == IMAGEID + "7,1,2,3,4,5,6\n"

    def broken():
        yield (8, 1, 2, 3, 4, 5, 6)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        picktables.write_rows(path, "imageid", broken())
    assert path.read_text() == IMAGEID + "7,1,2,3,4,5,6\n"
    assert [file.name for file in path.parent.iterdir()] == ["out.csv"]
    with pytest.raises(IsADirectoryError, match="a table is a file"):
        picktables.write_rows(tmp_path, "imageid", [])
